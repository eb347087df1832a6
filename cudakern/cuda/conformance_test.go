//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
)

// TestConformance holds the device against the whole suite, with the emulated driver's checks of bounds, alignment and
// launches on.
func TestConformance(t *testing.T) {
	kerntest.RunAll(t, func(t testing.TB) cudakern.Device {
		d, err := New("cuda:0")
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

// TestImagesAgree wants image B on the first GPU and image A on the second to give the same bits in every case of the
// suite.
func TestImagesAgree(t *testing.T) {
	if out, ok := isolated(t, "images agree", "CUDAEMU_CC=80,70"); !ok {
		t.Error(out)
	}
}

// TestOrdersAgree has blocks, warps and streams run in other orders: what the device computes must not change.
func TestOrdersAgree(t *testing.T) {
	first, ok := isolated(t, "digest", "CUDAEMU_SEED=0")
	for _, seed := range []string{"1", "20261128"} {
		other, also := isolated(t, "digest", "CUDAEMU_SEED="+seed)
		if !ok || !also || other != first {
			t.Fatalf("in order: %s\nwith seed %s: %s", first, seed, other)
		}
	}
}

// TestConformanceUnderAllChecks runs the small cases with everything checked that the emulated driver can: reads of
// what was never written, races within a block, between blocks and between streams, barriers that not all reach.
func TestConformanceUnderAllChecks(t *testing.T) {
	for _, name := range []string{"cuda:0", "cuda:1"} {
		t.Run(name, func(t *testing.T) {
			out, ok := isolated(t, "conformance of small cases", "CUDAEMU_CHECK=full", "CUDAEMU_SEED=5", "CUDAEMU_CC=80,70",
				deviceVariable+"="+name)
			if !ok {
				t.Error(out)
			}
			t.Log(out)
		})
	}
}

// deviceVariable names the device that a case of its own process is about.
const deviceVariable = "COLONNADE_CUDA_TEST_DEVICE"

func init() {
	cases["images agree"] = func() error {
		b, err := openWith("cuda:0")
		if err != nil {
			return err
		}
		a, err := openWith("cuda:1")
		if err != nil {
			return errors.Join(err, b.Close())
		}
		if a.image != 'A' || b.image != 'B' {
			err = fmt.Errorf("images %c and %c, want A and B", a.image, b.image)
		} else {
			err = kerntest.Same(a, b)
		}
		return errors.Join(err, a.Close(), b.Close())
	}
	cases["digest"] = func() error {
		d, err := openWith("cuda:0")
		if err != nil {
			return err
		}
		sum, err := kerntest.Digest(d)
		fmt.Printf("%x\n", sum)
		return errors.Join(err, d.Close())
	}
	cases["conformance of small cases"] = func() error {
		d, err := openWith(os.Getenv(deviceVariable))
		if err != nil {
			return err
		}
		for _, r := range kerntest.Check(d, kerntest.Options{Skip: large}) {
			if !r.Pass {
				err = errors.Join(err, fmt.Errorf("%s: %s", r.Op, r.Failure))
			}
			fmt.Printf("%s: %d cases, largest error %.2g of what is tolerated\n", r.Op, r.Cases, r.MaxError)
		}
		return errors.Join(err, d.Close())
	}
}

// large says whether a case of a product has more multiplications than are quick with every check on.
func large(op, name string) bool {
	const most = 2e6
	var n, in, h, w, out, kernel int
	switch op {
	case "conv":
		_, _ = fmt.Sscanf(name, "%dx%dx%dx%d by %d of %d", &n, &in, &h, &w, &out, &kernel)
		return n*in*h*w*out*kernel*kernel > most
	case "dense":
		_, _ = fmt.Sscanf(name, "%dx%d to %d", &n, &in, &out)
		return n*in*out > most
	}
	return false
}
