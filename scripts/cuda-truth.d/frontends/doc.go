// Package frontends compares the kernels that ship with the same sources compiled by others; scripts/cuda-truth runs
// it.
package frontends
