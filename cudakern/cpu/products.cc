// Convolution and dense layers: oneDNN's direct algorithms, one-thread primitives with scratch memory of their own, and
// Winograd convolution where it is faster.
#include "engine.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include <gnu/libc-version.h>
#include <sys/mman.h>

#include "dnnl_compat.h"
#include "shallow.h"
#include "winograd.h"

using namespace compat;
using tag = memory::format_tag;
constexpr auto f32 = memory::data_type::f32;

extern "C" void omp_set_num_threads(int);

namespace {

// one_thread keeps OpenMP from ever making a team: oneDNN asks for as many threads as the calling thread's setting
// says, and every OS thread that asked for more would keep a pool of its own.
void one_thread() { omp_set_num_threads(1); }

const engine &cpu() {
  static engine e(engine::kind::cpu, 0);
  return e;
}

template <class F> int guard(char *err, F f) {
  try {
    one_thread();
    f();
    return 0;
  } catch (const dnnl::error &e) {
    snprintf(err, ERR_BYTES, "oneDNN: %s (status %d)", e.what(), (int)e.status);
  } catch (const std::exception &e) {
    snprintf(err, ERR_BYTES, "%s", e.what());
  }
  return 1;
}

struct Freed {
  void operator()(void *p) const { ck_free(p); }
};
using Memory = std::unique_ptr<void, Freed>;

Memory allocate(size_t bytes) {
  Memory p(ck_alloc(bytes ? bytes : 1));
  if (!p) throw std::runtime_error("out of memory for " + std::to_string(bytes) + " bytes of workspace");
  return p;
}

} // namespace

struct ck_layout {
  md desc, plain;
  std::string name;
};

namespace {

// layouts are made once and live as long as the process, so that a name always means the same.
const ck_layout *intern(const md &d, const dims &shape) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<ck_layout>> all;
  auto t = shape.size() == 4 ? tag::abcd : tag::ab;
  md plain(shape, f32, t);
  std::string name = d == plain ? "plain" : "dnnl" + describe(d);
  std::string key = name == "plain" ? name + describe(plain) : name;
  std::lock_guard<std::mutex> lock(mutex);
  auto &l = all[key];
  if (!l) l.reset(new ck_layout{d, plain, name});
  return l.get();
}

struct Reorder {
  reorder prim;
  memory from, to;
  Reorder(const md &f, const md &t)
      : prim(reorder::primitive_desc(cpu(), f, cpu(), t)), from(f, cpu(), nullptr), to(t, cpu(), nullptr) {}
  void run(const void *src, void *dst) {
    stream s(cpu());
    from.set_data_handle(const_cast<void *>(src));
    to.set_data_handle(dst);
    prim.execute(s, from, to);
    s.wait();
  }
};

// Run is one primitive with the operands it is given at every call. An operand that lies otherwise than the primitive
// wants it goes through a copy of its own.
struct Run {
  struct Operand {
    std::unique_ptr<Reorder> convert;
    Memory copy;
    bool out;
    void *outer;
  };
  primitive prim;
  std::unordered_map<int, memory> args;
  std::map<int, Operand> operands;
  Memory scratch;
  template <class PD> void make(const primitive &p, const PD &pd) {
    prim = p;
    auto s = pd.scratchpad_desc();
    scratch = allocate(s.get_size());
    args[DNNL_ARG_SCRATCHPAD] = memory(s, cpu(), scratch.get());
  }
  void add(int arg, const md &outer, const md &inner, bool out) {
    args[arg] = memory(inner, cpu(), nullptr);
    Operand &o = operands[arg];
    o.out = out;
    if (outer == inner) return;
    o.convert.reset(out ? new Reorder(inner, outer) : new Reorder(outer, inner));
    o.copy = allocate(inner.get_size());
    args[arg].set_data_handle(o.copy.get());
  }
  void in(int arg, const md &outer, const md &inner) { add(arg, outer, inner, false); }
  void out(int arg, const md &outer, const md &inner) { add(arg, outer, inner, true); }
  void set(int arg, const void *p) {
    Operand &o = operands.at(arg);
    o.outer = const_cast<void *>(p);
    if (!o.convert) args.at(arg).set_data_handle(o.outer);
  }
  void go() {
    for (auto &o : operands)
      if (o.second.convert && !o.second.out) o.second.convert->run(o.second.outer, o.second.copy.get());
    stream s(cpu());
    prim.execute(s, args);
    s.wait();
    for (auto &o : operands)
      if (o.second.convert && o.second.out) o.second.convert->run(o.second.copy.get(), o.second.outer);
  }
};

// slow says whether oneDNN has nothing but its plain loops for a primitive, hundreds of times slower than the rest.
template <class PD> bool slow(const PD &pd) { return std::string(pd.impl_info_str()).rfind("ref", 0) == 0; }

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

struct ck_product {
  bool bias = false;
  const ck_layout *weights = nullptr;
  Run fwd, data, wts;
  // Passes that have no primitive.
  winograd::Plan wino;
  std::unique_ptr<shallow::Pass> few;
  int flags = 0;

  template <class PD> void make_forward(const primitive &p, const PD &pd, const dims &shape, const md &x, const md &y) {
    if (!weights) weights = intern(pd.weights_desc(), shape);
    fwd.make(p, pd);
    fwd.in(DNNL_ARG_SRC, x, pd.src_desc());
    fwd.in(DNNL_ARG_WEIGHTS, weights->desc, pd.weights_desc());
    if (bias) fwd.in(DNNL_ARG_BIAS, pd.bias_desc(), pd.bias_desc());
    fwd.out(DNNL_ARG_DST, y, pd.dst_desc()); // always as given: Accumulate reads it too
  }
  template <class PD> void make_data(const primitive &p, const PD &pd, const md &x, const md &y) {
    data.make(p, pd);
    data.in(DNNL_ARG_DIFF_DST, y, pd.diff_dst_desc());
    data.in(DNNL_ARG_WEIGHTS, weights->desc, pd.weights_desc());
    data.out(DNNL_ARG_DIFF_SRC, x, pd.diff_src_desc());
  }
  template <class PD> void make_weights(const primitive &p, const PD &pd, const md &x, const md &y) {
    wts.make(p, pd);
    wts.in(DNNL_ARG_SRC, x, pd.src_desc());
    wts.in(DNNL_ARG_DIFF_DST, y, pd.diff_dst_desc());
    wts.out(DNNL_ARG_DIFF_WEIGHTS, weights->desc, pd.diff_weights_desc());
    if (bias) wts.out(DNNL_ARG_DIFF_BIAS, pd.diff_bias_desc(), pd.diff_bias_desc());
  }
};

namespace {

md maps(int n, int c, int h, int w, int block) {
  return md({n, c, h, w}, f32, block == 16 ? tag::nChw16c : block == 8 ? tag::nChw8c : tag::nchw);
}

md any(const md &m) { return md(shape_of(m), f32, tag::any); }

// direct_backward makes the primitives of those backward passes that nothing else does.
void direct_backward(ck_product &p, const ck_conv_desc &d, const md &x, const md &w, const md *b, const md &y,
    const dims &st, const dims &pl,
                     const dims &pr) {
  const bool data = !d.no_data && !p.wino.data, gradient = !p.wino.gradient && !p.few;
  if (!data && !gradient) return;
  const md loose_w(shape_of(w), f32, tag::any);
  auto hint = conv_fwd(cpu(), x, w, b, y, st, pl, pr, attributes());
  auto loose = conv_fwd(cpu(), any(x), loose_w, b, any(y), st, pl, pr, attributes());
  if (data) {
    auto bd = conv_bwd_data(cpu(), x, w, y, st, pl, pr, hint, attributes());
    if (slow(bd)) bd = conv_bwd_data(cpu(), any(x), loose_w, any(y), st, pl, pr, loose, attributes());
    p.make_data(convolution_backward_data(bd), bd, x, y);
  }
  if (gradient) {
    auto bw = conv_bwd_weights(cpu(), x, w, b, y, st, pl, pr, hint, attributes());
    if (slow(bw)) bw = conv_bwd_weights(cpu(), any(x), loose_w, b, any(y), st, pl, pr, loose, attributes());
    p.make_weights(convolution_backward_weights(bw), bw, x, y);
  }
}

ck_product *conv(const ck_conv_desc &d) {
  auto p = std::make_unique<ck_product>();
  p->bias = d.bias;
  p->wino = winograd::plan(d);
  if (!p->wino.any()) p->few = shallow::plan(d);
  p->flags = (d.bias ? winograd::add_bias : 0) | (d.accumulate ? winograd::accumulate : 0) |
      (d.relu ? winograd::rectify : 0);
  md x = maps(d.n, d.in, d.h, d.w, d.block_x), y = maps(d.n, d.out, d.out_h, d.out_w, d.block_y);
  dims shape{d.out, d.in, d.kernel, d.kernel};
  md w(shape, f32, tag::any), b({d.out}, f32, tag::x);
  if (p->wino.any() || p->few) {
    p->weights = intern(md(shape, f32, d.block_y == 16 ? tag::Abcd16a : tag::Abcd8a), shape);
    w = p->weights->desc;
  }
  dims st{d.stride, d.stride}, pl{d.pad_top, d.pad_left};
  // What the last window needs beyond the image; negative where it ends before it.
  dims pr{(d.out_h - 1) * d.stride + d.kernel - d.pad_top - d.h,
          (d.out_w - 1) * d.stride + d.kernel - d.pad_left - d.w};
  const md *bp = d.bias ? &b : nullptr;
  // Operands as they lie first; where oneDNN has only plain loops for that, as it likes them, through copies.
  if (!p->wino.forward) {
    const md loose_w(shape, f32, tag::any);
    auto fwd = conv_fwd(cpu(), x, loose_w, bp, y, st, pl, pr, attributes(d.accumulate, d.relu));
    if (slow(fwd)) fwd = conv_fwd(cpu(), any(x), loose_w, bp, y, st, pl, pr, attributes(d.accumulate, d.relu));
    p->make_forward(convolution_forward(fwd), fwd, shape, x, y);
  }
  direct_backward(*p, d, x, w, bp, y, st, pl, pr);
  return p.release();
}

ck_product *dense(const ck_dense_desc &d) {
  auto p = std::make_unique<ck_product>();
  p->bias = d.bias;
  dims shape{d.out, d.in};
  md x({d.n, d.in}, f32, tag::nc), y({d.n, d.out}, f32, tag::nc), w(shape, f32, tag::any), b({d.out}, f32, tag::x);
  const md *bp = d.bias ? &b : nullptr;
  auto fwd = ip_fwd(cpu(), x, w, bp, y, attributes(d.accumulate, d.relu));
  p->make_forward(inner_product_forward(fwd), fwd, shape, x, y);
  auto hint = ip_fwd(cpu(), x, w, bp, y, attributes());
  if (!d.no_data) {
    auto bd = ip_bwd_data(cpu(), x, w, y, hint, attributes());
    p->make_data(inner_product_backward_data(bd), bd, x, y);
  }
  auto bw = ip_bwd_weights(cpu(), x, w, bp, y, hint, attributes());
  p->make_weights(inner_product_backward_weights(bw), bw, x, y);
  return p.release();
}

const char *isa_name() {
  switch (dnnl_get_effective_cpu_isa()) {
  case dnnl_cpu_isa_sse41: return "sse41";
  case dnnl_cpu_isa_avx: return "avx";
  case dnnl_cpu_isa_avx2: return "avx2";
  case dnnl_cpu_isa_avx512_core: return "avx512_core";
  case dnnl_cpu_isa_avx512_core_vnni: return "avx512_core_vnni";
  case dnnl_cpu_isa_avx512_core_bf16: return "avx512_core_bf16";
  default: return nullptr;
  }
}

} // namespace

extern "C" {

const char *ck_version(void) {
  static const std::string v = [] {
    auto n = dnnl_version();
    std::string s = "onednn-" + std::to_string(n->major) + "." + std::to_string(n->minor) + "." +
        std::to_string(n->patch) + "/";
    const char *isa = isa_name();
    s += isa ? isa : "isa" + std::to_string((int)dnnl_get_effective_cpu_isa());
    return s + "/glibc-" + gnu_get_libc_version(); // pow, for exponents of lrn other than 0.75
  }();
  return v.c_str();
}

int ck_path_runs(int path) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  switch (path) {
  case CK_AVX512:
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
  case CK_AVX2:
  case CK_AVX2_WIDE: return avx2;
  }
#endif
  return path == CK_PORTABLE;
}
int ck_best_path(void) {
  if (ck_path_runs(CK_AVX512) && (int)dnnl_get_effective_cpu_isa() >= (int)dnnl_cpu_isa_avx512_core) return CK_AVX512;
  return ck_path_runs(CK_AVX2) ? CK_AVX2 : CK_PORTABLE;
}
const char *ck_path_name(int path) {
  static const char *names[CK_PATHS] = {"portable", "avx2", "avx2-wide", "avx512"};
  return path >= 0 && path < CK_PATHS ? names[path] : "unknown";
}
int ck_block(int path) { return path == CK_AVX512 || path == CK_AVX2_WIDE ? 16 : 8; }

// Buffers of 2 MiB and more are laid on huge pages: far fewer of them have to be found in a step.
void *ck_alloc(size_t bytes) {
  const size_t huge = 2 << 20;
  size_t align = bytes >= huge ? huge : 64;
  size_t n = (bytes + align - 1) / align * align;
  void *p = nullptr;
  if (posix_memalign(&p, align, n ? n : align)) return nullptr;
  if (align == huge) madvise(p, n, MADV_HUGEPAGE);
  memset(p, 0, n);
  return p;
}
void ck_free(void *p) { free(p); }

const char *ck_layout_name(const ck_layout *l) { return l->name.c_str(); }
size_t ck_layout_bytes(const ck_layout *l) { return l->desc.get_size(); }
int ck_layout_from_plain(const ck_layout *l, const float *src, float *dst, char *err) {
  return guard(err, [&] { Reorder(l->plain, l->desc).run(src, dst); });
}
int ck_layout_to_plain(const ck_layout *l, const float *src, float *dst, char *err) {
  return guard(err, [&] { Reorder(l->desc, l->plain).run(src, dst); });
}

ck_product *ck_conv_new(const ck_conv_desc *d, char *err) {
  ck_product *p = nullptr;
  guard(err, [&] { p = conv(*d); });
  return p;
}
ck_product *ck_dense_new(const ck_dense_desc *d, char *err) {
  ck_product *p = nullptr;
  guard(err, [&] { p = dense(*d); });
  return p;
}
const ck_layout *ck_product_weights(const ck_product *p) { return p->weights; }

int ck_product_forward(ck_product *p, const float *x, const float *w, const float *b, float *y, char *err) {
  return guard(err, [&] {
    if (p->wino.forward) return p->wino.forward->forward(x, w, b, y, p->flags);
    p->fwd.set(DNNL_ARG_SRC, x);
    p->fwd.set(DNNL_ARG_WEIGHTS, w);
    if (p->bias) p->fwd.set(DNNL_ARG_BIAS, b);
    p->fwd.set(DNNL_ARG_DST, y);
    p->fwd.go();
  });
}

int ck_product_backward_data(ck_product *p, const float *dy, const float *w, float *dx, char *err) {
  return guard(err, [&] {
    if (p->wino.data) return p->wino.data->data(dy, w, dx);
    p->data.set(DNNL_ARG_DIFF_DST, dy);
    p->data.set(DNNL_ARG_WEIGHTS, w);
    p->data.set(DNNL_ARG_DIFF_SRC, dx);
    p->data.go();
  });
}

int ck_product_backward_weights(ck_product *p, const float *x, const float *dy, float *dw, float *db, char *err) {
  return guard(err, [&] {
    if (p->few) return p->few->gradient(x, dy, dw, db);
    if (p->wino.gradient) return p->wino.gradient->gradient(x, dy, dw, db);
    p->wts.set(DNNL_ARG_SRC, x);
    p->wts.set(DNNL_ARG_DIFF_DST, dy);
    p->wts.set(DNNL_ARG_DIFF_WEIGHTS, dw);
    if (p->bias) p->wts.set(DNNL_ARG_DIFF_BIAS, db);
    p->wts.go();
  });
}

void ck_product_free(ck_product *p) { delete p; }

void ck_product_algorithms(const ck_product *p, int *forward, int *data, int *weights) {
  auto name = [](const std::unique_ptr<winograd::Pass> &w) { return w ? 10 * w->tile()->m + w->tile()->r : 0; };
  *forward = name(p->wino.forward);
  *data = name(p->wino.data);
  *weights = name(p->wino.gradient);
}

} // extern "C"
