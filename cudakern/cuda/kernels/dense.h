// dense.h reads the operands of dense layers: two ways for a matrix to lie.
#pragma once
#include "gemm.h"

// Both readers keep one pointer that is the same in every thread and moves with the steps, and offsets of the thread's
// own that do not.

// Along reads an operand whose k lies along memory: element (line, k) at base[line*pitch + k]. A thread copies one k of
// LENGTH*K_STEP/THREADS lines; eight threads read 32 bytes of a line.
template <int LENGTH, int PITCH, int THREADS>
struct Along {
  static constexpr int COUNT = K_STEP * LENGTH / THREADS, LINES = THREADS / K_STEP;
  const float *at;
  int left; // k's to come, the thread's of this step included
  unsigned offset[COUNT];

  GPU_METHOD Along(const float *base, int lines, int pitch, int line0, int k0, int k1) {
    const int slot = threadIdx.x % K_STEP;
    at = base + (long long)line0 * pitch + k0 - K_STEP, left = k1 - k0 - slot + K_STEP;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      offset[i] = (unsigned)min((int)threadIdx.x / K_STEP + i * LINES, lines - 1 - line0) * pitch + slot;
  }
  GPU_METHOD void advance() { at += K_STEP, left -= K_STEP; }
  GPU_METHOD const float *from(int i) const { return at + offset[i]; }
  GPU_METHOD bool valid(int) const { return left > 0; }
  GPU_METHOD int to(int i) const { return threadIdx.x % K_STEP * PITCH + threadIdx.x / K_STEP + i * LINES; }
};

// Across reads an operand whose lines lie along memory: element (line, k) at base[k*pitch + line]. A warp copies whole
// k's, each thread every 32nd line.
template <int LENGTH, int PITCH, int THREADS>
struct Across {
  static constexpr int COUNT = K_STEP * LENGTH / THREADS, WARPS = THREADS / 32, GROUPS = LENGTH / 32;
  const float *at;
  int left, pitch;
  unsigned offset[COUNT];

  GPU_METHOD Across(const float *base, int lines, int pitch, int line0, int k0, int k1) : pitch(pitch) {
    const int slot = threadIdx.x / 32;
    at = base + (long long)(k0 - K_STEP) * pitch + line0, left = k1 - k0 - slot + K_STEP;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      offset[i] = (unsigned)(slot + i / GROUPS * WARPS) * pitch +
                  min((int)threadIdx.x % 32 + i % GROUPS * 32, lines - 1 - line0);
  }
  GPU_METHOD void advance() { at += (long long)K_STEP * pitch, left -= K_STEP; }
  GPU_METHOD const float *from(int i) const { return at + offset[i]; }
  GPU_METHOD bool valid(int i) const { return left > i / GROUPS * WARPS; }
  GPU_METHOD int to(int i) const {
    return (threadIdx.x / 32 + i / GROUPS * WARPS) * PITCH + threadIdx.x % 32 + i % GROUPS * 32;
  }
};

// Both is a Source of two operands.
template <class A, class B>
struct Both {
  static constexpr int A_WIDTH = 1, A_COUNT = A::COUNT, B_WIDTH = 1, B_COUNT = B::COUNT;
  A left;
  B right;
  GPU_METHOD void advance() { left.advance(), right.advance(); }
  GPU_METHOD const float *a(int i) const { return left.from(i); }
  GPU_METHOD bool aValid(int i) const { return left.valid(i); }
  GPU_METHOD int aTo(int i) const { return left.to(i); }
  GPU_METHOD const float *b(int i) const { return right.from(i); }
  GPU_METHOD bool bValid(int i) const { return right.valid(i); }
  GPU_METHOD int bTo(int i) const { return right.to(i); }
};
