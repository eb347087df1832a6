// fma.rn.f32, and runs of them: most of what a product of matrices does.
#include "some.h"

namespace emu {
namespace EMU_BUILD {
namespace {

void fma32(Warp &w, const Inst &i, u32 m) {
  f32 *d = w.reg<f32>(i.d);
  const f32 *a = w.reg<f32>(i.a), *b = w.reg<f32>(i.b), *c = w.reg<f32>(i.c);
  if (m == everyone) EMU_LANES d[l] = __builtin_fmaf(a[l], b[l], c[l]);
  else EMU_LANES d[l] = (m >> l & 1) ? __builtin_fmaf(a[l], b[l], c[l]) : d[l];
}

// sums does two rows and four columns of a part through all its steps: eight sums, which stay in the processor's
// registers. to: the four (d, c) of the first row; row2 words on, of the second. factors: of the first step, each
// `stride` words behind the one before; b at 0, the two a at `a`.
inline void sums(char *r, const u32 *to, u32 row2, const u32 *factors, u32 a, u32 stride, u32 steps) {
  const u32 *second = to + row2;
  Some s0 = load(r + to[1]), s1 = load(r + to[3]), s2 = load(r + to[5]), s3 = load(r + to[7]);
  Some t0 = load(r + second[1]), t1 = load(r + second[3]), t2 = load(r + second[5]), t3 = load(r + second[7]);
  for (; steps; steps--, factors += stride) {
    const Some b0 = load(r + factors[0]), b1 = load(r + factors[1]);
    const Some b2 = load(r + factors[2]), b3 = load(r + factors[3]);
    const Some x = load(r + factors[a]), y = load(r + factors[a + 1]);
    s0 = fma(x, b0, s0), s1 = fma(x, b1, s1), s2 = fma(x, b2, s2), s3 = fma(x, b3, s3);
    t0 = fma(y, b0, t0), t1 = fma(y, b1, t1), t2 = fma(y, b2, t2), t3 = fma(y, b3, t3);
  }
  store(r + to[0], s0), store(r + to[2], s1), store(r + to[4], s2), store(r + to[6], s3);
  store(r + second[0], t0), store(r + second[2], t1), store(r + second[4], t2), store(r + second[6], t3);
}

// A run that follows the plan which the loader made of it (runs.h), a few lanes after the others.
void fma32Run(Warp &w, const Inst &first, u32 m) {
  if (m != everyone) {
    for (const Inst *i = &first, *end = i + first.run; i != end; i++) fma32(w, *i, m);
    return;
  }
  static_assert(runColumns == 8, "two times four sums below");
  for (char *r = w.registers, *end = r + lanes * sizeof(f32); r != end; r += sizeof(Some)) {
    const u32 *p = first.more;
    while (u32 n = *p++) {
      if (n & runLoose) {
        for (n &= ~runLoose; n; n--, p += 4) store(r + p[0], fma(load(r + p[1]), load(r + p[2]), load(r + p[3])));
        continue;
      }
      const u32 rows = n & 0xFFFF, steps = n >> 16, stride = 8 + rows;
      const u32 *factors = p + 16 * rows;
      for (u32 row = 0; row < rows; row += 2, p += 32) {
        sums(r, p, 16, factors, 8 + row, stride, steps);
        sums(r, p + 8, 16, factors + 4, 4 + row, stride, steps);
      }
      p = factors + stride * steps;
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
