#include "direct.h"

namespace direct {

using namespace onednn;

namespace {

md maps(int n, int c, int h, int w, int block) {
  return md({n, c, h, w}, f32, block == 16 ? tag::nChw16c : block == 8 ? tag::nChw8c : tag::nchw);
}

md any(const md &m) { return md(shape_of(m), f32, tag::any); }

// is_slow says whether oneDNN has nothing but its plain loops for a primitive, hundreds of times slower than the rest.
template <class PD> bool is_slow(const PD &pd) { return std::string(pd.impl_info_str()).rfind("ref", 0) == 0; }

primitive_attr attributes(bool accumulate = false, bool relu = false) {
  primitive_attr a;
  post_ops p;
  if (accumulate) p.append_sum(1.f);
  if (relu) append_relu(p);
  a.set_post_ops(p);
  a.set_scratchpad_mode(scratchpad_mode::user);
  return a;
}

} // namespace

// Primitives are made for operands as they lie first; where oneDNN has only plain loops for that, as it likes them,
// through copies.
struct Conv::Primitives {
  md x, y, b;
  dims st, pl, pr;
  const md *bias;
  Primitives(const ck_conv_desc &d, int n)
      : x(maps(n, d.in, d.h, d.w, d.block_x)), y(maps(n, d.out, d.out_h, d.out_w, d.block_y)),
        b({d.out}, f32, tag::x), st{d.stride, d.stride}, pl{d.pad_top, d.pad_left},
        // What the last window needs beyond the image; negative where it ends before it.
        pr{(d.out_h - 1) * d.stride + d.kernel - d.pad_top - d.h,
            (d.out_w - 1) * d.stride + d.kernel - d.pad_left - d.w},
        bias(d.bias ? &b : nullptr) {}
  Primitives(const Primitives &) = delete;
  auto forward(const md &w, const primitive_attr &a) {
    auto pd = conv_fwd(cpu(), x, w, bias, y, st, pl, pr, a);
    return is_slow(pd) ? conv_fwd(cpu(), any(x), w, bias, y, st, pl, pr, a) : pd;
  }
  auto data(const md &w) {
    auto pd = conv_bwd_data(cpu(), x, w, y, st, pl, pr, hint(x, w, y), attributes());
    return is_slow(pd) ? conv_bwd_data(cpu(), any(x), w, any(y), st, pl, pr, hint(any(x), w, any(y)), attributes())
                       : pd;
  }
  auto gradient(const md &w) {
    auto pd = conv_bwd_weights(cpu(), x, w, bias, y, st, pl, pr, hint(x, w, y), attributes());
    return is_slow(pd)
        ? conv_bwd_weights(cpu(), any(x), w, bias, any(y), st, pl, pr, hint(any(x), w, any(y)), attributes())
        : pd;
  }
  convolution_forward::primitive_desc hint(const md &x, const md &w, const md &y) {
    return conv_fwd(cpu(), x, w, bias, y, st, pl, pr, attributes());
  }
};

Conv::Conv(threads::Team *team, const ck_conv_desc &desc, Passes wanted, const ck_layout *weights)
    : team(team), d(desc), layout(weights), least(d.n / lanes::count(d.n)) {
  make(0, wanted);
  if (d.n % lanes::count(d.n)) make(1, wanted);
}

// fill makes a pass's primitives for lanes of one size, and tells operands(run) to name what they work on.
template <class PD, class F> void Conv::fill(Pass &pass, int size, const PD &pd, bool out, F operands) {
  if (size == 0) pass.weights.make(layout->desc, pass.inner, out);
  pass.slow = pass.slow || is_slow(pd);
  const primitive prim(pd.get()); // threads share it: scratch memory is theirs
  pass.runs[size].resize(team->size());
  for (Run &r : pass.runs[size]) {
    r.make(prim, pd);
    operands(r);
  }
}

// make makes the primitives of lanes of `least` + size images. The first size decides how the weights lie.
void Conv::make(int size, const Passes &wanted) {
  const dims shape{d.out, d.in, d.kernel, d.kernel};
  const md loose(shape, f32, tag::any);
  Primitives p(d, least + size);
  if (wanted.forward) {
    const auto pd = p.forward(size ? fwd.inner : loose, attributes(d.accumulate, d.relu));
    if (size == 0) fwd.inner = pd.weights_desc();
    if (!layout) layout = onednn::layout(fwd.inner, shape);
    fill(fwd, size, pd, false, [&](Run &r) {
      r.in(DNNL_ARG_SRC, p.x, pd.src_desc());
      r.in(DNNL_ARG_WEIGHTS, fwd.inner, fwd.inner);
      if (d.bias) r.in(DNNL_ARG_BIAS, p.b, p.b);
      r.out(DNNL_ARG_DST, p.y, pd.dst_desc()); // always as given: Accumulate reads it too
    });
  }
  if (wanted.data) {
    const auto pd = p.data(size ? bwd.inner : loose);
    if (size == 0) bwd.inner = pd.weights_desc();
    fill(bwd, size, pd, false, [&](Run &r) {
      r.in(DNNL_ARG_DIFF_DST, p.y, pd.diff_dst_desc());
      r.in(DNNL_ARG_WEIGHTS, bwd.inner, bwd.inner);
      r.out(DNNL_ARG_DIFF_SRC, p.x, pd.diff_src_desc());
    });
  }
  if (wanted.gradient) {
    const auto pd = p.gradient(size ? wts.inner : loose);
    if (size == 0) {
      wts.inner = pd.diff_weights_desc();
      sum = std::make_unique<lanes::Sum>(team, d.n, wts.inner.get_size() / sizeof(float), d.out);
    }
    fill(wts, size, pd, true, [&](Run &r) {
      r.in(DNNL_ARG_SRC, p.x, pd.src_desc());
      r.in(DNNL_ARG_DIFF_DST, p.y, pd.diff_dst_desc());
      r.out(DNNL_ARG_DIFF_WEIGHTS, wts.inner, wts.inner);
      if (d.bias) r.out(DNNL_ARG_DIFF_BIAS, p.b, p.b);
    });
  }
}

void Conv::forward(const float *x, const float *w, const float *b, float *y) {
  const float *inner = fwd.weights.in(w);
  team->run(lanes::count(d.n), [&](int l, int thread) {
    const int first = lanes::start(d.n, l), last = lanes::start(d.n, l + 1);
    Run &r = of(fwd, first, last, thread);
    r.set(DNNL_ARG_SRC, x + first * image_x());
    r.set(DNNL_ARG_WEIGHTS, inner);
    if (d.bias) r.set(DNNL_ARG_BIAS, b);
    r.set(DNNL_ARG_DST, y + first * image_y());
    r.go();
  });
}

void Conv::data(const float *dy, const float *w, float *dx) {
  const float *inner = bwd.weights.in(w);
  team->run(lanes::count(d.n), [&](int l, int thread) {
    const int first = lanes::start(d.n, l), last = lanes::start(d.n, l + 1);
    Run &r = of(bwd, first, last, thread);
    r.set(DNNL_ARG_DIFF_DST, dy + first * image_y());
    r.set(DNNL_ARG_WEIGHTS, inner);
    r.set(DNNL_ARG_DIFF_SRC, dx + first * image_x());
    r.go();
  });
}

void Conv::gradient(const float *x, const float *dy, float *dw, float *db) {
  const auto lane = [&](int first, int last, float *dw, float *db, int thread) {
    Run &r = of(wts, first, last, thread);
    r.set(DNNL_ARG_SRC, x + first * image_x());
    r.set(DNNL_ARG_DIFF_DST, dy + first * image_y());
    r.set(DNNL_ARG_DIFF_WEIGHTS, dw);
    if (d.bias) r.set(DNNL_ARG_DIFF_BIAS, db);
    r.go();
  };
  sum->run(lane, wts.weights.place(dw), db);
  wts.weights.out(dw);
}

} // namespace direct
