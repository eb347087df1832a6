//go:build cuda && cgo

package cuda

import (
	"os/exec"
	"testing"
)

// productBugs are mistakes in the kernels of products.
var productBugs = []bug{
	{what: "a row of the tile behind", file: "gemm.h", is: "y = ((lane >> 3) + warp",
		bad: "y = ((lane >> 2) + warp", ops: "dense"},
	{what: "columns of two groups mixed", file: "gemm.h", is: "(j >> 2) * (T::N / 2) + x",
		bad: "(j >> 2) * (T::N / 4) + x",
		ops: "dense"},
	{what: "the last k of a step forgotten", file: "gemm.h",
		is:  "for (int k = 0; k < K_STEP; k++) {\n      const float *ak",
		bad: "for (int k = 0; k < K_STEP - 1; k++) {\n      const float *ak", ops: "dense"},
	{what: "16 bytes at an address of 4", file: "gemm.h", is: "PAD = 4>", bad: "PAD = 5>", ops: "dense"},
	{what: "no barrier behind the first tile", file: "gemm.h", is: "as[0], bs[0]);\n  __syncthreads();",
		bad: "as[0], bs[0]);",
		ops: "dense"},
	{what: "no barrier in the loop", file: "gemm.h", is: "as[buffer], bs[buffer]);\n    __syncthreads();",
		bad: "as[buffer], bs[buffer]);", ops: "dense"},
	{what: "one buffer instead of two", file: "gemm.h", is: "buffer ^= 1;", bad: "", ops: "dense"},
	{what: "a step too few", file: "gemm.h", is: "int left = steps - 1;;", bad: "int left = steps - 2;;", ops: "dense"},
	{what: "a step too many", file: "gemm.h", is: "int left = steps - 1;;", bad: "int left = steps;;", ops: "conv"},
	{what: "sums that begin somewhere", file: "gemm.h", is: "i < 64; i++) c[i] = 0.0f;", bad: "i < 63; i++) c[i] = 0.0f;",
		ops: "dense"},
	{what: "accumulation the wrong way round", file: "gemm.h", is: "v += add ? *at : 0.0f", bad: "v += add ? 0.0f : *at",
		ops: "dense"},
	{what: "no rectifier", file: "gemm.h", is: "flags & RELU ?", bad: "flags & ACCUMULATE ?", ops: "dense"},
	{what: "a row beyond the matrix written", file: "dense.cu", is: "if (row < m && column < n)",
		bad: "if (row <= m && column < n)",
		ops: "dense"},
	{what: "a column beyond the matrix written", file: "dense.cu", is: "if (row < m && column < n)",
		bad: "if (row < m && column <= n)", ops: "dense"},
	{what: "a bias read past its end", file: "dense.cu", is: "min(column0 + place.column(j), n - 1)",
		bad: "column0 + place.column(j)",
		ops: "dense"},
	{what: "all parts in the same place", file: "dense.cu", is: "blockIdx.z * m * n;", bad: "0 * m * n;", ops: "dense"},
	{what: "parts that overlap", file: "dense.cu", is: "first = blockIdx.z * perPart, last",
		bad: "first = blockIdx.z * (perPart - 8), last",
		ops: "dense"},
	{what: "the last part forgotten", file: "dense.cu", is: "p < parts; p++", bad: "p < parts - 1; p++", ops: "dense"},
	{what: "a number too many summed", file: "dense.cu", is: "if (i >= count) return;",
		bad: "if (i > count) return;", ops: "dense"},
	{what: "k not cut off along", file: "dense.h", is: "valid(int) const { return left > 0; }",
		bad: "valid(int) const { return true; }",
		ops: "dense"},
	{what: "k not cut off across", file: "dense.h", is: "return left > i / GROUPS * WARPS; }",
		bad: "return left > 0; }", ops: "dense"},
	{what: "lines beyond the matrix read", file: "dense.h",
		is:  "min((int)threadIdx.x % 32 + i % GROUPS * 32, lines - 1 - line0)",
		bad: "((int)threadIdx.x % 32 + i % GROUPS * 32)", ops: "dense"},
	{what: "the stride of a step", file: "dense.h", is: "at += (long long)K_STEP * pitch",
		bad: "at += (long long)K_STEP * (pitch - 1)",
		ops: "dense"},
	{what: "an output behind the last", file: "conv.cu", is: "if (q < total && map < maps)",
		bad: "if (q <= total && map < maps)",
		ops: "conv"},
	{what: "a map behind the last", file: "conv.cu", is: "if (q < total && map < maps)",
		bad: "if (q < total && map <= maps)", ops: "conv"},
	{what: "windows of the last output not repeated", file: "conv.cu", is: "min(first + threadIdx.x % T::N, total - 1)",
		bad: "first + threadIdx.x % T::N", ops: "conv"},
	{what: "no barrier before the taps are read", file: "conv.cu", is: "taps[column + 1]);\n  }\n  __syncthreads();",
		bad: "taps[column + 1]);\n  }", ops: "conv"},
	{what: "images of the last part as many as of the others", file: "conv.cu",
		is:  "count = min(perPart, images - first) * plane;\n  const int row0",
		bad: "count = perPart * plane;\n  const int row0", ops: "conv"},
	{what: "packed weights not padded", file: "conv.cu", is: "place >= 0 && map < maps ?",
		bad: "place >= 0 ?", ops: "conv"},
	{what: "no barrier in the packing", file: "conv.cu", is: "+ place] : 0.0f;\n  }\n  __syncthreads();",
		bad: "+ place] : 0.0f;\n  }",
		ops: "conv"},
	{what: "half of the bias's sums", file: "conv.cu", is: "int half = 128; half > 0",
		bad: "int half = 64; half > 0", ops: "conv"},
	{what: "no barrier in the bias's tree", file: "conv.cu", is: "sums[tid + half];\n    __syncthreads();",
		bad: "sums[tid + half];",
		ops: "conv"},
	{what: "edges of the image included", file: "conv.h", is: "max(size - first, 0), NARROW)",
		bad: "max(size - first + 1, 0), NARROW)",
		ops: "conv"},
	{what: "padding above the image not seen", file: "conv.h", is: "& ~((1u << low) - 1);", bad: ";", ops: "conv"},
	{what: "rows of a phase in the wrong place", file: "conv.cu", is: "y * again.row + x",
		bad: "y * again.column + x", ops: "conv"},
}

// TestPlantedProductBugs plants mistakes in the kernels of products and says what found each.
func TestPlantedProductBugs(t *testing.T) {
	t.Parallel()
	plantable(t, productBugs, "kernels")
	if _, err := exec.LookPath("clang++-19"); err != nil {
		t.Skip("wants clang 19 to compile kernels")
	}
	const without = `(elementwise|input|maps|softmax)`
	sound(t, productBugs, without, true)
	found := catches(t)
	for _, b := range sample(t, productBugs, 12) {
		t.Run(b.what, func(t *testing.T) {
			t.Parallel()
			found.add(t, b, b.huntExactly(t, b.compile(t, without)))
		})
	}
}

// exactVariable has the case "ops" open its device with Exact.
const exactVariable = "COLONNADE_CUDA_TEST_EXACT"

// huntExactly hunts with buffers that are allocations of their own: a read past an end may find a neighbour otherwise.
func (b bug) huntExactly(t *testing.T, ptx string, env ...string) string {
	t.Helper()
	return b.hunt(t, ptx, append(env, exactVariable+"=1")...)
}
