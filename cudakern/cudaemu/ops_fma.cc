// fma.rn.f32, and runs of them: most of what a product of matrices does.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

void fma32(Warp &w, const Inst &i, u32 m) {
  f32 *d = w.reg<f32>(i.d);
  const f32 *a = w.reg<f32>(i.a), *b = w.reg<f32>(i.b), *c = w.reg<f32>(i.c);
  if (m == everyone) EMU_LANES d[l] = __builtin_fmaf(a[l], b[l], c[l]);
  else EMU_LANES d[l] = (m >> l & 1) ? __builtin_fmaf(a[l], b[l], c[l]) : d[l];
}

// Some lanes at once, as many as the processor adds in one instruction.
#ifdef __AVX2__
using Some = __m256;
inline Some load(const char *p) { return _mm256_load_ps((const float *)p); }
inline void store(char *p, Some v) { _mm256_store_ps((float *)p, v); }
inline Some fma(Some a, Some b, Some c) { return _mm256_fmadd_ps(a, b, c); }
#else
struct Some {
  f32 v[4];
};
inline Some load(const char *p) {
  Some s;
  memcpy(s.v, p, sizeof s);
  return s;
}
inline void store(char *p, Some s) { memcpy(p, s.v, sizeof s); }
inline Some fma(Some a, Some b, Some c) {
  for (int l = 0; l < 4; l++) c.v[l] = __builtin_fmaf(a.v[l], b.v[l], c.v[l]);
  return c;
}
#endif

// A run that follows the plan which the loader made of it (runs.h), a few lanes after the others: so the eight factors
// that the rows of a block share stay in the processor's registers.
void fma32Run(Warp &w, const Inst &first, u32 m) {
  if (m != everyone) {
    for (const Inst *i = &first, *end = i + first.run; i != end; i++) fma32(w, *i, m);
    return;
  }
  static_assert(runColumns == 8, "the block below has eight factors");
  for (char *r = w.registers, *end = r + lanes * sizeof(f32); r != end; r += sizeof(Some)) {
    const u32 *p = first.more;
    while (u32 n = *p++) {
      if (n & runLoose) {
        for (n &= ~runLoose; n; n--, p += 4) store(r + p[0], fma(load(r + p[1]), load(r + p[2]), load(r + p[3])));
        continue;
      }
      const Some b0 = load(r + p[0]), b1 = load(r + p[1]), b2 = load(r + p[2]), b3 = load(r + p[3]);
      const Some b4 = load(r + p[4]), b5 = load(r + p[5]), b6 = load(r + p[6]), b7 = load(r + p[7]);
      for (p += 8; n; n--, p += 17) {
        const Some a = load(r + p[0]);
        store(r + p[1], fma(a, b0, load(r + p[2])));
        store(r + p[3], fma(a, b1, load(r + p[4])));
        store(r + p[5], fma(a, b2, load(r + p[6])));
        store(r + p[7], fma(a, b3, load(r + p[8])));
        store(r + p[9], fma(a, b4, load(r + p[10])));
        store(r + p[11], fma(a, b5, load(r + p[12])));
        store(r + p[13], fma(a, b6, load(r + p[14])));
        store(r + p[15], fma(a, b7, load(r + p[16])));
      }
    }
  }
}

const Entry fmas[] = {
    {"fma.rn.f32", fma32, "ds as bs cs", Class::Ffma},
    {"mad.rn.f32", fma32, "ds as bs cs", Class::Ffma},
};

} // namespace

EMU_TABLE(fmas)
Handler fmaHandler() { return fma32; }
Handler fmaRunHandler() { return fma32Run; }

} // namespace EMU_BUILD
} // namespace emu
