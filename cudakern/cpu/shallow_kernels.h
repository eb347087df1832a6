// The kernels of gradients over a plain map or two, on the vectors of matrix_kernels.h.

namespace {

// pad copies image n with a border of zeros: rows() x columns() of each map.
void pad(const shallow::Geometry &g, const float *x, int n, float *padded) {
  const int rows = g.rows(), columns = g.columns();
  for (int c = 0; c < g.in; c++)
    for (int y = 0; y < rows; y++, padded += columns) {
      const int from = y - g.pad_top;
      const float *row = x + (((size_t)n * g.in + c) * g.h + from) * g.w - g.pad_left;
      const int left = from < 0 || from >= g.h ? columns : g.pad_left < columns ? g.pad_left : columns;
      const int right = g.pad_left + g.w < columns ? g.pad_left + g.w : columns;
      for (int i = 0; i < left; i++) padded[i] = 0;
      for (int i = left; i < right; i++) padded[i] = row[i];
      for (int i = right > left ? right : left; i < columns; i++) padded[i] = 0;
    }
}

// row_gradient adds what one row of the gradient of N blocks of maps yields for one row of taps.
template <int K, int N> INLINE void row_gradient(const shallow::Geometry &g, const float *x, const float *dy,
    float *dw) {
  const size_t block = (size_t)g.in * K * K * B, plane = (size_t)g.oh * g.ow * B;
  V c[K][N] = {};
  for (int i = 0; i < g.ow; i++, dy += B) {
    V d[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) d[j] = load(dy + j * plane);
#pragma GCC unroll 8
    for (int s = 0; s < K; s++) {
      V a = splat(x[i + s]);
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) c[s][j] = fma(a, d[j], c[s][j]);
    }
  }
  add_tile<K, N>(c, dw, block, true);
}

template <int K, int N> void image_gradient(const shallow::Geometry &g, const float *padded, const float *dy,
    float *dw, float *db) {
  const size_t plane = (size_t)g.oh * g.ow * B;
  const int columns = g.columns();
  for (int y = 0; y < g.oh; y++, dy += (size_t)g.ow * B) {
    for (int m = 0; m < g.in; m++)
      for (int r = 0; r < K; r++)
        row_gradient<K, N>(g, padded + ((size_t)m * g.rows() + y + r) * columns, dy, dw + (m * K + r) * K * B);
    for (int j = 0; db && j < N; j++) {
      V sum = {};
      for (int i = 0; i < g.ow; i++) sum += load(dy + j * plane + i * B);
      store(db + j * B, load(db + j * B) + sum);
    }
  }
}

template <int K>
void shallow_gradient(const shallow::Geometry &g, const float *x, const float *dy, float *dw, float *db, int first,
    int last, float *padded) {
  const size_t filters = (size_t)g.in * K * K * B, plane = (size_t)g.oh * g.ow * B;
  const int blocks = g.out / B;
  constexpr int N = K > 5 ? 1 : 2; // K*N sums fit the registers
  for (size_t i = 0; i < blocks * filters; i += B) store(dw + i, V{});
  for (int i = 0; db && i < g.out; i += B) store(db + i, V{});
  for (int n = first; n < last; n++) {
    pad(g, x, n, padded);
    panels<N>(0, blocks, [&](int j, int take) {
      const float *from = dy + ((size_t)n * blocks + j) * plane;
      float *b = db ? db + j * B : nullptr;
      if (take == N) image_gradient<K, N>(g, padded, from, dw + j * filters, b);
      else image_gradient<K, 1>(g, padded, from, dw + j * filters, b);
    });
  }
}

const shallow::Kernels few[] = {{3, shallow_gradient<3>}, {5, shallow_gradient<5>}, {7, shallow_gradient<7>}};

} // namespace

const shallow::Kernels *shallow::KERNELS(int kernel) {
  for (const shallow::Kernels &k : few)
    if (k.kernel == kernel) return &k;
  return nullptr;
}
