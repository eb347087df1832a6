// The matrices of F(m, r) by Toom and Cook: y = A^T [(G g) . (B^T d)] for m outputs of a filter of r taps over t =
// m+r-1 inputs (Winograd 1980; Lavin and Gray 2016, section 4.1). For finite points p_0 .. p_(t-2) and the point at
// infinity:
//   A^T   row i: p_j^i;                                                          infinity: 1 in the last row
//   G     row j: p_j^k / N_j, N_j the product of p_j - p_l over l != j;          infinity: 1 in the last column
//   B^T   row j: coefficients of the product of x - p_l over finite l != j;      infinity: over all finite l
// Points come in pairs a, -a (besides 0 where t is even), whose rows agree in one half of their entries and differ in
// sign in the other: half of the multiplications, and errors that cancel (Alam, Anderson, Barabasz, Gregg 2022). Which
// ones was decided by measured error: see DESIGN.md. All are dyadic, so that A^T and B^T are exact in float.
#pragma once

namespace winograd {

template <int T> struct Points;
template <> struct Points<6> { static constexpr double at[] = {0, 0.625, -0.625, 1.75, -1.75}; };
template <> struct Points<7> { static constexpr double at[] = {0.25, -0.25, 0.875, -0.875, 1.75, -1.75}; };
template <> struct Points<8> { static constexpr double at[] = {0, 0.5, -0.5, 1, -1, 2, -2}; };

template <int M, int R> struct Matrices {
  static constexpr int T = M + R - 1;
  static constexpr int paired = (T - 1) % 2; // the first point that has a partner
  struct Values {
    double a[T][M], b[T][T], g[T][R]; // A, B^T, G: a row for each point
  };
  static constexpr Values make() {
    Values v{};
    for (int j = 0; j < T; j++) {
      // The product of x - p_l over the finite l != j, lowest power first.
      double c[T + 1] = {1};
      int degree = 0;
      for (int l = 0; l < T - 1; l++) {
        if (l == j) continue;
        for (int k = degree; k >= 0; k--) {
          c[k + 1] += c[k];
          c[k] *= -Points<T>::at[l];
        }
        degree++;
      }
      for (int k = 0; k < T; k++) v.b[j][k] = k <= degree ? c[k] : 0;
      if (j == T - 1) {
        v.a[j][M - 1] = v.g[j][R - 1] = 1;
        continue;
      }
      const double p = Points<T>::at[j];
      double n = 1, power = 1;
      for (int l = 0; l < T - 1; l++)
        if (l != j) n *= p - Points<T>::at[l];
      for (int k = 0; k < M || k < R; k++, power *= p) {
        if (k < M) v.a[j][k] = power;
        if (k < R) v.g[j][k] = power / n;
      }
    }
    return v;
  }
  static constexpr Values values = make();

  // Each matrix by its rows of points: t x cols.
  struct A {
    static constexpr int points = T, cols = M, first = paired;
    static constexpr double at(int j, int k) { return values.a[j][k]; }
  };
  struct B {
    static constexpr int points = T, cols = T, first = paired;
    static constexpr double at(int j, int k) { return values.b[j][k]; }
  };
  struct G {
    static constexpr int points = T, cols = R, first = paired;
    static constexpr double at(int j, int k) { return values.g[j][k]; }
  };
};

// parity is how the row behind row j differs from it: +1 if even entries agree and odd ones differ in sign, -1 the
// other way round, 0 if the rows are no pair.
template <class X> constexpr int parity(int j) {
  for (int s = 1; s >= -1; s -= 2) {
    bool ok = true;
    for (int k = 0; k < X::cols; k++) ok = ok && X::at(j + 1, k) == (k % 2 == 0 ? s : -s) * X::at(j, k);
    if (ok) return s;
  }
  return 0;
}

} // namespace winograd
