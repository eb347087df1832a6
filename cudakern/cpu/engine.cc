// What the device is: versions, instruction sets, memory, threads, layouts of weights.
#include "engine.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

#include <gnu/libc-version.h>
#include <sys/mman.h>

#include "onednn.h"

using namespace onednn;

namespace {

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

// intern keeps a layout under its name, or finds the one that is there.
const ck_layout *intern(const ck_layout &l, const std::string &key) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<ck_layout>> all;
  std::lock_guard<std::mutex> lock(mutex);
  auto &kept = all[key];
  if (!kept) kept.reset(new ck_layout(l));
  return kept.get();
}

// each calls f(place among blocked weights of a dense layer, place among plain ones) as the blocked ones lie: whole
// cache lines of these, and a line of each of the block's rows.
template <class F> void each(const ck_layout &l, F f) {
  const int B = l.block, whole = (l.in + B - 1) / B * B;
  for (int first = 0; first < l.out; first += B) {
    const int rows = l.out - first < B ? l.out - first : B;
    for (int i = 0; i < l.in; i++)
      for (int k = 0; k < rows; k++) f(((size_t)first / B * whole + i) * B + k, (size_t)(first + k) * l.in + i);
  }
}

} // namespace

namespace onednn {

const ck_layout *layout(const md &d, const dims &shape) {
  const md plain(shape, f32, shape.size() == 4 ? tag::abcd : tag::ab);
  const std::string name = d == plain ? "plain" : "dnnl" + describe(d);
  return intern({name, d.get_size(), d, plain, 0, 0, 0}, name == "plain" ? name + describe(plain) : name);
}

const ck_layout *blocked(int out, int in, int block) {
  const int rows = (out + block - 1) / block * block, columns = (in + block - 1) / block * block;
  const auto shape = [](int o, int i) { return std::to_string(o) + "," + std::to_string(i) + ","; };
  const std::string name = "blocks" + std::to_string(block) + "/d" + shape(out, in) + "/p" + shape(rows, columns);
  return intern({name, (size_t)rows * columns * sizeof(float), md(), md(), out, in, block}, name);
}

} // namespace onednn

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
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
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

ck_team *ck_team_new(int threads, int fine, char *err) {
  ck_team *t = nullptr;
  guard(err, [&] { t = new ck_team(threads, fine); });
  return t;
}
void ck_team_free(ck_team *t) { delete t; }

const char *ck_layout_name(const ck_layout *l) { return l->name.c_str(); }
size_t ck_layout_bytes(const ck_layout *l) { return l->bytes; }
int ck_layout_from_plain(const ck_layout *l, const float *src, float *dst, char *err) {
  return guard(err, [&] {
    if (!l->block) return Reorder(l->plain, l->desc).run(src, dst);
    memset(dst, 0, l->bytes);
    each(*l, [&](size_t blocked, size_t plain) { dst[blocked] = src[plain]; });
  });
}
int ck_layout_to_plain(const ck_layout *l, const float *src, float *dst, char *err) {
  return guard(err, [&] {
    if (!l->block) return Reorder(l->desc, l->plain).run(src, dst);
    each(*l, [&](size_t blocked, size_t plain) { dst[plain] = src[blocked]; });
  });
}

} // extern "C"
