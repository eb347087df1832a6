// One face for the two generations of oneDNN's C++ interface: 2.x (Debian 12) and 3.x (Debian 13). They differ in how
// primitive descriptors are made and in how a memory descriptor is looked into.
#pragma once
#if !__has_include(<oneapi/dnnl/dnnl.hpp>)
#error "oneDNN is missing: apt-get install libdnnl-dev"
#endif
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

namespace compat {
using namespace dnnl;
using md = memory::desc;
using dims = memory::dims;

#if DNNL_VERSION_MAJOR >= 3
inline convolution_forward::primitive_desc conv_fwd(const engine &e, const md &x, const md &w, const md *b, const md &y,
                                                    const dims &st, const dims &pl, const dims &pr,
                                                    const primitive_attr &a) {
  auto pk = prop_kind::forward_training;
  auto al = algorithm::convolution_direct;
  return b ? convolution_forward::primitive_desc(e, pk, al, x, w, *b, y, st, pl, pr, a)
           : convolution_forward::primitive_desc(e, pk, al, x, w, y, st, pl, pr, a);
}
inline convolution_backward_data::primitive_desc conv_bwd_data(const engine &e, const md &dx, const md &w, const md &dy,
                                                               const dims &st, const dims &pl, const dims &pr,
                                                               const convolution_forward::primitive_desc &h,
                                                               const primitive_attr &a) {
  return {e, algorithm::convolution_direct, dx, w, dy, st, pl, pr, h, a};
}
inline convolution_backward_weights::primitive_desc conv_bwd_weights(const engine &e, const md &x, const md &dw,
                                                                     const md *db, const md &dy,
                                                                     const dims &st, const dims &pl, const dims &pr,
                                                                     const convolution_forward::primitive_desc &h,
                                                                     const primitive_attr &a) {
  auto al = algorithm::convolution_direct;
  return db ? convolution_backward_weights::primitive_desc(e, al, x, dw, *db, dy, st, pl, pr, h, a)
            : convolution_backward_weights::primitive_desc(e, al, x, dw, dy, st, pl, pr, h, a);
}
inline void append_relu(post_ops &p) { p.append_eltwise(algorithm::eltwise_relu, 0.f, 0.f); }
inline dims shape_of(const md &m) { return m.get_dims(); }
// describe names a blocked descriptor by all that decides where its elements lie.
inline std::string describe(const md &m) {
  std::string s;
  auto put = [&s](const char *t, const dims &v) {
    s += t;
    for (auto d : v) s += std::to_string(d) + ",";
  };
  put("/d", m.get_dims());
  put("/p", m.get_padded_dims());
  put("/s", m.get_strides());
  put("/b", m.get_inner_blks());
  put("/i", m.get_inner_idxs());
  return s;
}
#else
inline convolution_forward::primitive_desc conv_fwd(const engine &e, const md &x, const md &w, const md *b, const md &y,
                                                    const dims &st, const dims &pl, const dims &pr,
                                                    const primitive_attr &a) {
  auto pk = prop_kind::forward_training;
  auto al = algorithm::convolution_direct;
  using D = convolution_forward::desc;
  return {b ? D(pk, al, x, w, *b, y, st, pl, pr) : D(pk, al, x, w, y, st, pl, pr), a, e};
}
inline convolution_backward_data::primitive_desc conv_bwd_data(const engine &e, const md &dx, const md &w, const md &dy,
                                                               const dims &st, const dims &pl, const dims &pr,
                                                               const convolution_forward::primitive_desc &h,
                                                               const primitive_attr &a) {
  return {convolution_backward_data::desc(algorithm::convolution_direct, dx, w, dy, st, pl, pr), a, e, h};
}
inline convolution_backward_weights::primitive_desc conv_bwd_weights(const engine &e, const md &x, const md &dw,
                                                                     const md *db, const md &dy,
                                                                     const dims &st, const dims &pl, const dims &pr,
                                                                     const convolution_forward::primitive_desc &h,
                                                                     const primitive_attr &a) {
  auto al = algorithm::convolution_direct;
  using D = convolution_backward_weights::desc;
  return {db ? D(al, x, dw, *db, dy, st, pl, pr) : D(al, x, dw, dy, st, pl, pr), a, e, h};
}
inline void append_relu(post_ops &p) { p.append_eltwise(1.f, algorithm::eltwise_relu, 0.f, 0.f); }
inline dims shape_of(const md &m) { return m.dims(); }
inline std::string describe(const md &m) {
  std::string s;
  auto put = [&s](const char *t, const dnnl_dim_t *v, int n) {
    s += t;
    for (int i = 0; i < n; i++) s += std::to_string(v[i]) + ",";
  };
  const auto &b = m.data.format_desc.blocking;
  put("/d", m.data.dims, m.data.ndims);
  put("/p", m.data.padded_dims, m.data.ndims);
  put("/s", b.strides, m.data.ndims);
  put("/b", b.inner_blks, b.inner_nblks);
  put("/i", b.inner_idxs, b.inner_nblks);
  return s;
}
#endif
} // namespace compat
