// gpu.h lets one .cu source be compiled by three front ends to the same arithmetic:
//
//   clang -x cuda -nocudainc -nocudalib   no CUDA toolkit: what gen.sh runs and what ships
//   nvcc, NVRTC                           everything named as in CUDA is theirs; only the gpu_ helpers below are ours
//
// Rules for kernels: dynamic shared memory only through GPU_DYNAMIC_SHARED; vector types and __nvvm builtins only in
// this file; every multiply-add that may be one is written fmaf (gen.sh forbids contraction, nvcc needs --fmad=false);
// entry points are `extern "C" __global__` and take pointers, int, unsigned, float, double and unsigned long long.
#pragma once

#if defined(__NVCC__) || defined(__CUDACC_RTC__)

#define GPU_FN static __device__ __forceinline__
#define GPU_METHOD __device__ __forceinline__

// gpu_load4 and gpu_store4 move 16 bytes at once; the address must be a multiple of 16.
GPU_FN float4 gpu_load4(const float *p) { return *(const float4 *)p; }
GPU_FN int4 gpu_load4(const int *p) { return *(const int4 *)p; }
GPU_FN void gpu_store4(float *p, float4 v) { *(float4 *)p = v; }

// gpu_shared_address is where in shared memory p lies, as inline assembly wants it.
GPU_FN unsigned gpu_shared_address(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }

#elif defined(__clang__) && defined(__CUDA__)

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define GPU_FN static __device__ __forceinline__
#define GPU_METHOD __device__ __forceinline__

#include <__clang_cuda_builtin_vars.h> // threadIdx, blockIdx, blockDim, gridDim: clang's own, needs no toolkit

struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
GPU_FN float2 make_float2(float x, float y) { return {x, y}; }
GPU_FN float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
GPU_FN int2 make_int2(int x, int y) { return {x, y}; }
GPU_FN int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
GPU_FN uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
GPU_FN uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// *(const float4 *)p would become four loads here; a vector type of clang's is one.
typedef float gpu_f4 __attribute__((ext_vector_type(4)));
typedef int gpu_i4 __attribute__((ext_vector_type(4)));
GPU_FN float4 gpu_load4(const float *p) {
  gpu_f4 v = *(const gpu_f4 *)p;
  return {v.x, v.y, v.z, v.w};
}
GPU_FN int4 gpu_load4(const int *p) {
  gpu_i4 v = *(const gpu_i4 *)p;
  return {v.x, v.y, v.z, v.w};
}
GPU_FN void gpu_store4(float *p, float4 v) {
  gpu_f4 w = {v.x, v.y, v.z, v.w};
  *(gpu_f4 *)p = w;
}
GPU_FN unsigned gpu_shared_address(const void *p) {
  return (unsigned)(unsigned long long)(__attribute__((address_space(3))) const void *)p;
}

// __syncthreads is clang's own.
GPU_FN void __syncwarp(unsigned mask = 0xffffffffu) { __nvvm_bar_warp_sync(mask); }
GPU_FN int __shfl_sync(unsigned m, int v, int lane, int w = 32) {
  return __nvvm_shfl_sync_idx_i32(m, v, lane, ((32 - w) << 8) | 31);
}
GPU_FN float __shfl_sync(unsigned m, float v, int lane, int w = 32) {
  return __nvvm_shfl_sync_idx_f32(m, v, lane, ((32 - w) << 8) | 31);
}
GPU_FN int __shfl_xor_sync(unsigned m, int v, int lanes, int w = 32) {
  return __nvvm_shfl_sync_bfly_i32(m, v, lanes, ((32 - w) << 8) | 31);
}
GPU_FN float __shfl_xor_sync(unsigned m, float v, int lanes, int w = 32) {
  return __nvvm_shfl_sync_bfly_f32(m, v, lanes, ((32 - w) << 8) | 31);
}
GPU_FN int __shfl_down_sync(unsigned m, int v, unsigned by, int w = 32) {
  return __nvvm_shfl_sync_down_i32(m, v, (int)by, ((32 - w) << 8) | 31);
}
GPU_FN float __shfl_down_sync(unsigned m, float v, unsigned by, int w = 32) {
  return __nvvm_shfl_sync_down_f32(m, v, (int)by, ((32 - w) << 8) | 31);
}

// Exact functions are single instructions; there is no libdevice behind them.
GPU_FN float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
GPU_FN double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
GPU_FN float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
GPU_FN float fminf(float a, float b) { return __builtin_fminf(a, b); }
GPU_FN float fabsf(float a) { return __builtin_fabsf(a); }
GPU_FN float sqrtf(float a) { return __builtin_sqrtf(a); }
GPU_FN float floorf(float a) { return __builtin_floorf(a); }
GPU_FN float rintf(float a) { return __builtin_rintf(a); }
GPU_FN double rint(double a) { return __builtin_rint(a); }
GPU_FN int min(int a, int b) { return a < b ? a : b; }
GPU_FN int max(int a, int b) { return a > b ? a : b; }
GPU_FN unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
GPU_FN unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
GPU_FN unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
GPU_FN unsigned __float_as_uint(float a) { return __builtin_bit_cast(unsigned, a); }
GPU_FN float __uint_as_float(unsigned a) { return __builtin_bit_cast(float, a); }
GPU_FN int __float_as_int(float a) { return __builtin_bit_cast(int, a); }
GPU_FN float __int_as_float(int a) { return __builtin_bit_cast(float, a); }
GPU_FN long long __double_as_longlong(double a) { return __builtin_bit_cast(long long, a); }
GPU_FN double __longlong_as_double(long long a) { return __builtin_bit_cast(double, a); }

#else
#error "compile with clang -x cuda (gen.sh), nvcc or NVRTC"
#endif

#define GPU_DYNAMIC_SHARED(T, name) extern __shared__ T name[]

// gpu_divide is x / d for 0 <= x < 2^31, by the multiplier and shift that the host made for d (see divisor in
// op_conv.go): exact for every such x.
GPU_FN unsigned gpu_divide(unsigned x, unsigned multiplier, unsigned shift) {
  return (__umulhi(x, multiplier) + x) >> shift;
}

// gpu_forget makes the compiler take a pointer for an unknown one, so that what is read through it is read anew.
template <class T>
GPU_FN void gpu_forget(T *&p) {
  asm volatile("" : "+l"(p));
}

// gpu_thread is threadIdx.x, read anew rather than kept in a register since it was last.
GPU_FN int gpu_thread() {
  int t;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
  return t;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define GPU_IMAGE_B 1

// gpu_copy_async starts a copy of BYTES (4 or 16) from global to shared memory, or of zeros where !valid: then `from`
// is not read. It is part of the group that the next gpu_copy_commit closes.
template <int BYTES>
GPU_FN void gpu_copy_async(unsigned to, const float *from, bool valid) {
  if (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}
GPU_FN void gpu_copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// gpu_copy_wait waits until all but the last PENDING groups of this thread have arrived.
template <int PENDING>
GPU_FN void gpu_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// gpu_tf32 rounds to TF32 (10 bits of mantissa), to nearest, ties away from zero.
GPU_FN unsigned gpu_tf32(float a) {
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(a));
  return r;
}

// gpu_mma_tf32 adds the product of a 16x8 and an 8x8 matrix to a 16x8 one, spread over a warp as PTX says of m16n8k8.
GPU_FN void gpu_mma_tf32(float c[4], const unsigned a[4], const unsigned b[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
