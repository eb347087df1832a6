// Products of matrices (runs.h): loads of factors from shared memory and the run of fma.rn.f32 that they are for.
#include "reach.h"
#include "some.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// Factors of all steps, as the sums below read them. As kernels share their work out, 8 lanes that follow each other
// have the same a's, and the first, second ... of each 8 have the same b's.
struct Factors {
  alignas(64) f32 b[Product::mostSteps][runColumns][8];           // by place in 8 lanes
  alignas(64) f32 a[lanes / 8][Product::mostSteps][Product::mostRows]; // by 8 lanes
};

// fetch does the loads, if all of them may be done at once and find factors as they are expected.
bool fetch(Warp &w, const Inst *load, const Product &p, Factors &f) {
  const u8 *const shared = w.block->shared;
  const u64 *from[Product::mostAddresses];
  u32 n = 0;
  for (const Product::Address &x : p.addresses) {
    const Reach &r = reach(w, load[x.load]);
    const u64 low = r.low + x.low, end = r.high + x.high + 16;
    if (!(x.ofA ? r.groups : r.period) || (r.bits | x.bits) & 15 || (s64)r.low < 0 || (s64)low < 0 || end <= low ||
        end > w.block->sharedBytes)
      return false;
    from[n++] = w.reg<u64>(load[x.load].a);
  }
  const Product::Quad *quad = p.b.data();
  for (u32 s = 0; s < p.steps; s++)
    for (u32 k = 0; k < runColumns; k += 4, quad++) {
      u32 *const to[4] = {(u32 *)f.b[s][k], (u32 *)f.b[s][k + 1], (u32 *)f.b[s][k + 2], (u32 *)f.b[s][k + 3]};
      gather4(shared + quad->offset, from[quad->address], to, 8, false);
    }
  quad = p.a.data();
  for (u32 s = 0; s < p.steps; s++)
    for (u32 k = 0; k < p.rows; k += 4, quad++)
      for (u32 g = 0; g < lanes / 8; g++)
        memcpy(&f.a[g][s][k], shared + quad->offset + from[quad->address][8 * g], 16);
  return true;
}

// sums adds up two rows and four columns of some lanes: eight sums, which stay in the processor's registers. to: the
// four (d, c) of the first row; those of the second are a row on. a: of the first row, at the first step; b: of the
// first column.
inline void sums(char *r, const u32 *to, const f32 *a, const f32 *b, u32 steps) {
  const u32 *const second = to + 2 * runColumns;
  Some s0 = load(r + to[1]), s1 = load(r + to[3]), s2 = load(r + to[5]), s3 = load(r + to[7]);
  Some t0 = load(r + second[1]), t1 = load(r + second[3]), t2 = load(r + second[5]), t3 = load(r + second[7]);
  for (; steps; steps--, a += Product::mostRows, b += 8 * runColumns) {
    const Some x = spread(a), y = spread(a + 1);
    const Some b0 = load((const char *)b), b1 = load((const char *)(b + 8));
    const Some b2 = load((const char *)(b + 16)), b3 = load((const char *)(b + 24));
    s0 = fma(x, b0, s0), s1 = fma(x, b1, s1), s2 = fma(x, b2, s2), s3 = fma(x, b3, s3);
    t0 = fma(y, b0, t0), t1 = fma(y, b1, t1), t2 = fma(y, b2, t2), t3 = fma(y, b3, t3);
  }
  store(r + to[0], s0), store(r + to[2], s1), store(r + to[4], s2), store(r + to[6], s3);
  store(r + second[0], t0), store(r + second[2], t1), store(r + second[4], t2), store(r + second[6], t3);
}

void product(Warp &w, const Inst &first, u32 m) {
  const Product &p = *first.product;
  Factors f;
  if (m != everyone || w.block->watched || !fetch(w, &first, p, f)) { // one by one, with the load that is at fault
    const Inst *i = &first;
    for (u32 n = 0; n < p.loads; n++) p.load(w, *i++, m);
    return i->fn(w, *i, m);
  }
  for (u32 lane = 0; lane < lanes; lane += sizeof(Some) / sizeof(f32)) {
    char *const r = w.registers + lane * sizeof(f32);
    for (u32 row = 0; row < p.rows; row += 2)
      for (u32 k = 0; k < runColumns; k += 4)
        sums(r, p.sums + 2 * (row * runColumns + k), &f.a[lane / 8][0][row], &f.b[0][k][lane % 8], p.steps);
  }
}

} // namespace

Handler productHandler() { return product; }

} // namespace EMU_BUILD
} // namespace emu
