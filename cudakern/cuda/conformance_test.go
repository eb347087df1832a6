//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
)

// TestConformance holds the device against the whole suite, with the emulated driver's checks of bounds, alignment and
// launches on.
func TestConformance(t *testing.T) {
	t.Parallel()
	kerntest.RunAll(t, func(t testing.TB) cudakern.Device {
		d, err := New("cuda:0")
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}

// TestImagesAndOrdersAgree wants one digest of all cases of the suite from image B, with blocks, warps and streams in
// order and shuffled, and from image A, shuffled in another way. Where they differ, it says in which case.
func TestImagesAndOrdersAgree(t *testing.T) {
	t.Parallel()
	settings := [][]string{{"CUDAEMU_CC=80", "CUDAEMU_SEED=0"}, {"CUDAEMU_CC=80", "CUDAEMU_SEED=1"},
		{"CUDAEMU_CC=70", "CUDAEMU_SEED=20261128"}}
	digests := make([]string, len(settings))
	t.Run("digests", func(t *testing.T) {
		for i, env := range settings {
			t.Run(fmt.Sprint(env), func(t *testing.T) {
				t.Parallel()
				var ok bool
				if digests[i], ok = isolated(t, "digest", env...); !ok {
					t.Error(digests[i])
				}
			})
		}
	})
	for i, d := range digests {
		if d != digests[0] {
			t.Errorf("%v: %s\n%v: %s", settings[0], digests[0], settings[i], d)
		}
	}
	if t.Failed() {
		out, _ := isolated(t, "images agree", "CUDAEMU_CC=80,70")
		t.Log(out)
	}
}

// TestConformanceUnderAllChecks runs the small cases with everything checked that the emulated driver can: reads of
// what was never written, races within a block, between blocks and between streams, barriers that not all reach. Image
// A runs those of products, unless all is asked for: the other ops' kernels are the same in both.
func TestConformanceUnderAllChecks(t *testing.T) {
	t.Parallel()
	ofA := "conv,dense"
	if os.Getenv(plantedVariable) != "" {
		ofA = ""
	}
	for name, ops := range map[string]string{"cuda:0": "", "cuda:1": ofA} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, ok := isolated(t, "conformance of small cases", "CUDAEMU_CHECK=full", "CUDAEMU_SEED=5", "CUDAEMU_CC=80,70",
				deviceVariable+"="+name, opsVariable+"="+ops)
			if !ok {
				t.Error(out)
			}
			t.Log(out)
		})
	}
}

// TestOtherKernelsAreTheSame: what is not a product has the same text in both images, but for names of labels.
func TestOtherKernelsAreTheSame(t *testing.T) {
	label, same := regexp.MustCompile(`\$L__BB\d+_`), 0
	kernels := func(letter byte) map[string]string {
		text, err := images.ReadFile(imageFiles[letter])
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]string{}
		for _, k := range strings.Split(string(text), ".visible .entry ")[1:] {
			name, body, _ := strings.Cut(k, "(")
			out[name], _, _ = strings.Cut(label.ReplaceAllString(body, "L"), "\n}")
		}
		return out
	}
	a, b := kernels('A'), kernels('B')
	product := regexp.MustCompile(`^(conv|dense)_(forward|data|weights)`)
	for name, text := range a {
		switch {
		case product.MatchString(name):
		case b[name] != text:
			t.Errorf("%s is another program in image B", name)
		default:
			same++
		}
	}
	if same < 20 {
		t.Errorf("%d kernels compared, want 20 at least", same)
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
		options := kerntest.Options{Skip: large}
		if ops := os.Getenv(opsVariable); ops != "" {
			options.Ops = strings.Split(ops, ",")
		}
		for _, r := range kerntest.Check(d, options) {
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
