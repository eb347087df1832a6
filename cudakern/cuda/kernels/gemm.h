// gemm.h multiplies matrices tile by tile: what convolutions and dense layers have in common.
//
// A block computes an M x N tile of C = A B, each thread 64 elements of it, in steps of K_STEP along k. A step's
// parts of A and B lie in shared memory as [k][m] and [k][n]. What A and B are is a Source's business: an im2col that
// exists nowhere, a transposed matrix, a packed one. How products are added is a Sum's: Fp32 or Tf32. In Fp32 every
// element of C is one chain of fmaf with k ascending, whatever the tile and the image, so neither reaches the bits.
//
// A Source has, for its thread,
//   A_COUNT, A_WIDTH, B_COUNT, B_WIDTH    copies a step, and the floats in each (1, or 4 at 16-byte addresses)
//   void advance()                        goes to the next step; called before the first one too
//   const float *a(int i), *b(int i)      where copy i is read
//   bool aValid(int i), bValid(int i)     false: zeros instead, and nothing is read
//   int aTo(int i), bTo(int i)            where in the tile it goes, in floats
// Rows and columns beyond the matrix are given as repetitions of the last: they cost no test in the loop and are
// dropped when C is stored. Only k has to be cut off with zeros.
#pragma once
#include "gpu.h"

constexpr int K_STEP = 8;

// Tile is the shape of a block's part of C. PAD spreads the rows in shared memory over the banks.
template <int M_, int N_, int PAD = 4>
struct Tile {
  static constexpr int M = M_, N = N_, THREADS = M * N / 64;
  static constexpr int PITCH_A = M + PAD, PITCH_B = N + PAD;
  static constexpr int FLOATS_A = K_STEP * PITCH_A, FLOATS_B = K_STEP * PITCH_B;
};

typedef Tile<128, 128> Tile128x128;
typedef Tile<64, 128> Tile64x128;
typedef Tile<64, 64> Tile64x64;
typedef Tile<128, 128, 8> TileTf32_128x128;
typedef Tile<64, 128, 8> TileTf32_64x128;
typedef Tile<64, 64, 8> TileTf32_64x64;

// Fp32 adds products in float32. Which 8 x 8 elements of the tile are the thread's: rows and columns in two groups of 4
// half a tile apart, so that a warp, 4 x 8 threads, reads 16 neighbouring words of A and 32 of B at once.
template <class T>
struct Fp32 {
  static constexpr int ROWS = 8, COLUMNS = 8;
  int x, y;

  GPU_METHOD Fp32() {
    const int thread = gpu_thread(), lane = thread & 31, warp = thread >> 5;
    x = ((lane & 7) + warp % (T::N / 64) * 8) * 4;
    y = ((lane >> 3) + warp / (T::N / 64) * 4) * 4;
  }
  GPU_METHOD int row(int i) const { return (i >> 2) * (T::M / 2) + y + (i & 3); }
  GPU_METHOD int column(int j) const { return (j >> 2) * (T::N / 2) + x + (j & 3); }
  static GPU_METHOD constexpr int index(int i, int j) { return i * 8 + j; } // of element (i, j) in c

  // step adds the products of one step.
  GPU_METHOD void step(float (&c)[64], const float *as, const float *bs) const {
#pragma unroll
    for (int k = 0; k < K_STEP; k++) {
      const float *ak = as + k * T::PITCH_A + y, *bk = bs + k * T::PITCH_B + x;
      float4 a0 = gpu_load4(ak), a1 = gpu_load4(ak + T::M / 2), b0 = gpu_load4(bk), b1 = gpu_load4(bk + T::N / 2);
      float a[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
      float b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) c[index(i, j)] = fmaf(a[i], b[j], c[index(i, j)]);
    }
  }
};

#if GPU_IMAGE_B
// Tf32 multiplies on the tensor cores, operands rounded to TF32, sums in float32: another numerics. A warp has 32 x 64
// of the tile, 2 x 8 of mma's 16 x 8; in each of them a thread has rows g and g+8, columns 2t and 2t+1. Its tiles are
// padded by 8, so that the four k's and eight rows that a warp reads at once lie in 32 banks.
template <class T>
struct Tf32 {
  static constexpr int ROWS = 4, COLUMNS = 16;
  int g, t, x, y;

  GPU_METHOD Tf32() {
    const int thread = gpu_thread(), warp = thread >> 5;
    g = (thread & 31) >> 2, t = thread & 3;
    x = warp % (T::N / 64) * 64, y = warp / (T::N / 64) * 32;
  }
  GPU_METHOD int row(int i) const { return y + (i >> 1) * 16 + (i & 1) * 8 + g; }
  GPU_METHOD int column(int j) const { return x + (j >> 1) * 8 + t * 2 + (j & 1); }
  static GPU_METHOD constexpr int index(int i, int j) {
    return ((i >> 1) * 8 + (j >> 1)) * 4 + (i & 1) * 2 + (j & 1);
  }

  GPU_METHOD void step(float (&c)[64], const float *as, const float *bs) const {
    unsigned a[2][4], b[8][2];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int q = 0; q < 4; q++)
        a[i][q] = gpu_tf32(as[(t + (q >> 1) * 4) * T::PITCH_A + y + i * 16 + (q & 1) * 8 + g]);
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
      for (int q = 0; q < 2; q++) b[j][q] = gpu_tf32(bs[(t + q * 4) * T::PITCH_B + x + j * 8 + g]);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < 8; j++) gpu_mma_tf32(c + (i * 8 + j) * 4, a[i], b[j]);
  }
};
#endif

#if GPU_IMAGE_B

// copy starts the copies of the source's step to a stage of shared memory.
template <class S>
GPU_FN void copy(S &source, unsigned as, unsigned bs) {
#pragma unroll
  for (int i = 0; i < S::A_COUNT; i++)
    gpu_copy_async<4 * S::A_WIDTH>(as + 4 * source.aTo(i), source.a(i), source.aValid(i));
#pragma unroll
  for (int i = 0; i < S::B_COUNT; i++)
    gpu_copy_async<4 * S::B_WIDTH>(bs + 4 * source.bTo(i), source.b(i), source.bValid(i));
}

// each adds up every step, while copies two steps ahead are under way. A stage is written again three steps
// later: the barrier of the step between has seen every thread leave it.
template <class T, class S, class Sum>
GPU_FN void each(S &source, int steps, const Sum &sum, float (&c)[64]) {
  constexpr int STAGES = 3;
  __shared__ __align__(16) float as[STAGES][T::FLOATS_A], bs[STAGES][T::FLOATS_B];
  const unsigned a0 = gpu_shared_address(as), b0 = gpu_shared_address(bs);
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < steps) {
      source.advance();
      copy(source, a0 + s * 4 * T::FLOATS_A, b0 + s * 4 * T::FLOATS_B);
    }
    gpu_copy_commit();
  }
  int stage = 0;
  for (int left = steps; left > 0; left--) {
    gpu_copy_wait<STAGES - 2>();
    __syncthreads();
    if (left > STAGES - 1) {
      const int next = stage == 0 ? STAGES - 1 : stage - 1;
      source.advance();
      copy(source, a0 + next * 4 * T::FLOATS_A, b0 + next * 4 * T::FLOATS_B);
    }
    gpu_copy_commit(); // an empty group at the end, so that the count of groups goes on
    sum.step(c, as[stage], bs[stage]);
    stage = stage == STAGES - 1 ? 0 : stage + 1;
  }
}

#else

// Fetched is a step on its way through registers.
template <class S>
struct Fetched {
  float a[S::A_COUNT * S::A_WIDTH], b[S::B_COUNT * S::B_WIDTH];

  template <int WIDTH>
  static GPU_METHOD void one(float *r, const float *from, bool valid) {
    if (WIDTH == 4) {
      float4 v = valid ? gpu_load4(from) : make_float4(0, 0, 0, 0);
      r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
    } else {
      r[0] = valid ? *from : 0.0f;
    }
  }
  template <int WIDTH>
  static GPU_METHOD void one(const float *r, float *to) {
    if (WIDTH == 4)
      gpu_store4(to, make_float4(r[0], r[1], r[2], r[3]));
    else
      *to = r[0];
  }
  // get reads everything before put stores anything: a load behind a store to shared memory would wait for it.
  GPU_METHOD void get(S &source) {
#pragma unroll
    for (int i = 0; i < S::A_COUNT; i++) one<S::A_WIDTH>(a + i * S::A_WIDTH, source.a(i), source.aValid(i));
#pragma unroll
    for (int i = 0; i < S::B_COUNT; i++) one<S::B_WIDTH>(b + i * S::B_WIDTH, source.b(i), source.bValid(i));
  }
  GPU_METHOD void put(const S &source, float *as, float *bs) const {
#pragma unroll
    for (int i = 0; i < S::A_COUNT; i++) one<S::A_WIDTH>(a + i * S::A_WIDTH, as + source.aTo(i));
#pragma unroll
    for (int i = 0; i < S::B_COUNT; i++) one<S::B_WIDTH>(b + i * S::B_WIDTH, bs + source.bTo(i));
  }
};

// each adds up every step; the next step's loads are under way meanwhile.
template <class T, class S, class Sum>
GPU_FN void each(S &source, int steps, const Sum &sum, float (&c)[64]) {
  __shared__ __align__(16) float as[2][T::FLOATS_A], bs[2][T::FLOATS_B];
  Fetched<S> fetched;
  source.advance();
  fetched.get(source);
  fetched.put(source, as[0], bs[0]);
  __syncthreads();
  int buffer = 0;
  for (int left = steps - 1;; left--) {
    const bool more = left > 0;
    if (more) {
      source.advance();
      fetched.get(source);
    }
    // Without this, ptxas moves the loads down to where their values are used, behind the arithmetic that hides them.
    __syncwarp();
    sum.step(c, as[buffer], bs[buffer]);
    if (!more) break;
    buffer ^= 1; // every thread has left this buffer: they met at the barrier since
    fetched.put(source, as[buffer], bs[buffer]);
    __syncthreads();
  }
}

#endif

// multiply leaves the thread's elements of the tile in c. steps is at least 1. Who calls it finds out anew where they
// are, by another Sum, so that the loop has the registers.
template <class T, class Sum, class S>
GPU_FN void multiply(S &source, int steps, float (&c)[64]) {
#pragma unroll
  for (int i = 0; i < 64; i++) c[i] = 0.0f;
  each<T>(source, steps, Sum(), c);
}

constexpr int ACCUMULATE = 1, RELU = 2; // flags of Finish

// Finish is what becomes of an element of a product and its bias: [what was there +] v [then max(0)], without branches,
// since there are 64 of it in a thread. A NaN stays one.
struct Finish {
  bool add;
  float least;
  GPU_METHOD explicit Finish(int flags)
      : add(flags & ACCUMULATE), least(flags & RELU ? 0.0f : __int_as_float((int)0xff800000)) {}
  GPU_METHOD void operator()(float *at, float v) const {
    v += add ? *at : 0.0f;
    *at = v < least ? least : v;
  }
};
