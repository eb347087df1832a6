//go:build cuda && cgo

package cuda

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// misuses are mistakes in how the driver is used. They are planted in this package's own sources; each wants a test
// program of its own.
var misuses = []bug{
	{what: "views written over while they are copied", file: "op_moves.go",
		is:   "if s.used.st != nil && !s.used.st.closed.Load() {",
		bad:  "if s.used.st != nil && s.used.st.closed.Load() {",
		test: "TestViewsAreReused"},
	{what: "staging written over while it is copied", file: "copy.go",
		is:   "if p.used.st != nil {",
		bad:  "if p.used.st != nil && st.closed.Load() {",
		test: "TestCopies"},
	{what: "staging read before the copy is done", file: "copy.go",
		is:   "if err := pieces[fetched/stagingBytes%len(pieces)].used.wait(); err != nil {\n\t\t\treturn err\n\t\t}\n",
		bad:  "",
		test: "TestCopies"},
	{what: "an event that is not waited for", file: "stream.go",
		is:   "return st.enqueue(func() error { return failed(st.s.Wait(ev.mark(), 0), \"cuStreamWaitEvent\", \"\") })",
		bad:  "return nil",
		test: "TestEvents"},
	{what: "an event of another time", file: "stream.go", is: "failed(st.s.Wait(ev.mark(), 0)",
		bad: "failed(st.s.Wait(event{ev.st, ev.n - 1}.mark(), 0)", test: "TestEvents"},
	{what: "a kernel on another stream", file: "launch.go", is: "l.shared, st.s, l.cells",
		bad: "l.shared, d.zeroes, l.cells", test: "TestViewsAreReused"},
	{what: "a copy on another stream", file: "op_moves.go", is: "int64(from.bytes), a.st.s)",
		bad: "int64(from.bytes), a.d.zeroes)", test: "TestReorderIsInOrder"},
	{what: "new memory used before it is zero", file: "buffer.go",
		is:   "failed(d.zeroes.Synchronize(), \"cuStreamSynchronize\", \"\"))",
		bad:  "nil)",
		test: "TestZeroed"},
	{what: "memory given back while it is used", file: "buffer.go", is: "\tb.d.settle()\n\tif err := b.Intact()",
		bad: "\tif err := error(nil)", test: "TestZeroed"},
	{what: "pinned memory given back while it is copied", file: "copy.go", is: "\th.d.settle()\n\tunpin", bad: "\tunpin",
		test: "TestHostMemoryIsHeld"},
	{what: "an argument that is another's", file: "launch.go", is: "p := unsafe.Pointer(&l.cells[i])",
		bad: "p := unsafe.Pointer(&l.cells[min(i, 2)])", test: "TestAnyAlignment"},
	{what: "a grid a block short", file: "op_common.go", is: "dim{X: ceil(n, 4*threads)}",
		bad: "dim{X: n / (4 * threads)}", test: "TestAnyAlignment"},
}

// TestPlantedMisuses plants each mistake in a copy of its file, builds the tests with it, and wants the one that is
// named to fail.
func TestPlantedMisuses(t *testing.T) {
	t.Parallel()
	plantable(t, misuses, ".")
	found := catches(t)
	for _, b := range sample(t, misuses, 6) {
		t.Run(b.what, func(t *testing.T) {
			t.Parallel()
			program := b.build(t)
			cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+b.test+"$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), "CUDAEMU_CHECK=full")
			text, err := cmd.CombinedOutput()
			how := ""
			if err != nil {
				how = foundBy(string(text))
			}
			found.add(t, b, how)
		})
	}
}

// build makes the test program with the mistake in it.
func (b bug) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path, err := filepath.Abs(b.file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	planted, overlay, program := filepath.Join(dir, b.file), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "test")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: planted}})
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string][]byte{planted: []byte(strings.Replace(string(text), b.is, b.bad, 1)), overlay: list} {
		if err := os.WriteFile(name, v, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", program, ".")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
