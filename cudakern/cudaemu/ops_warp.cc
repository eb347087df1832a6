// Between the lanes of a warp: shfl vote match redux activemask, and mma.sync. The dispatcher has seen to it that all
// lanes that the member mask names are here (Flow::Converge), and calls the handler for them.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

enum class Way { Up, Down, Butterfly, Index };

// shfl.sync d|e, a, b, c: d is a of another lane, e says whether that lane was in the segment. c packs clamp and
// segment mask.
template <Way way> void shuffle(Warp &w, const Inst &i, u32 m) {
  u32 a[lanes];
  memcpy(a, w.reg<u32>(i.a), sizeof a);
  const u32 *b = w.reg<u32>(i.b), *c = w.reg<u32>(i.c);
  u32 d[lanes], in = 0;
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    const int step = (int)(b[l] & 31), clamp = (int)(c[l] & 31), segment = (int)(c[l] >> 8 & 31);
    const int last = (l & segment) | (clamp & ~segment), first = l & segment;
    int from = way == Way::Up      ? l - step
               : way == Way::Down  ? l + step
               : way == Way::Index ? first | (step & ~segment)
                                   : l ^ step;
    const bool inside = way == Way::Up ? from >= last : from <= last;
    if (!inside) from = l;
    if (!(m >> from & 1)) faultText(w, i, l, LaunchFailed, "shuffles from a lane that takes no part in it");
    in |= (u32)inside << l;
    d[l] = a[from];
  }
  u32 *out = w.reg<u32>(i.d);
  for (int l = 0; l < lanes; l++)
    if (m >> l & 1) out[l] = d[l];
  setPredicate(w, i.e, in, m);
}

template <auto f> void votePredicate(Warp &w, const Inst &i, u32 m) {
  setPredicate(w, i.d, f(w.predicate(i.a) & m, m) ? everyone : 0, m);
}
void ballot(Warp &w, const Inst &i, u32 m) {
  const u32 votes = w.predicate(i.a) & m;
  u32 *d = w.reg<u32>(i.d);
  EMU_LANES d[l] = m >> l & 1 ? votes : d[l];
}
void activeMask(Warp &w, const Inst &i, u32 m) {
  u32 *d = w.reg<u32>(i.d);
  EMU_LANES d[l] = m >> l & 1 ? m : d[l];
}
template <class T> void matchAny(Warp &w, const Inst &i, u32 m) {
  T a[lanes];
  memcpy(a, w.reg<T>(i.a), sizeof a);
  u32 *d = w.reg<u32>(i.d);
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    u32 same = 0;
    for (int k = 0; k < lanes; k++) same |= (u32)(m >> k & 1 && a[k] == a[l]) << k;
    d[l] = same;
  }
}
template <class T> void matchAll(Warp &w, const Inst &i, u32 m) {
  const T *a = w.reg<T>(i.a);
  const int first = __builtin_ctz(m);
  bool all = true;
  for (int l = 0; l < lanes; l++) all = all && (!(m >> l & 1) || a[l] == a[first]);
  u32 *d = w.reg<u32>(i.d);
  for (int l = 0; l < lanes; l++)
    if (m >> l & 1) d[l] = all ? m : 0;
  setPredicate(w, i.e, all ? everyone : 0, m);
}
template <auto f, class T> void reduce(Warp &w, const Inst &i, u32 m) {
  const T *a = w.reg<T>(i.a);
  T r = a[__builtin_ctz(m)];
  for (int l = __builtin_ctz(m) + 1; l < lanes; l++)
    if (m >> l & 1) r = f(r, a[l]);
  T *d = w.reg<T>(i.d);
  for (int l = 0; l < lanes; l++)
    if (m >> l & 1) d[l] = r;
}

// mma.sync m16n8kK in tf32: d[16][8] = a[16][K] * b[K][8] + c. Lane l holds rows l/4 and l/4+8 of a and c, columns l%4
// (and l%4+4) of a, column l/4 of b, columns 2*(l%4) and +1 of c. Inputs count as tf32 with their low bits dropped, as
// tensor cores do; products are added to c one by one in ascending k, each sum rounded to f32. Tensor cores keep a few
// bits more or less within a step, so results agree with a GPU's to about 2^-21 of the largest term, not to the bit.
template <int K> void mmaTf32(Warp &w, const Inst &i, u32 m) {
  if (m != everyone) faultText(w, i, -1, LaunchFailed, "mma.sync needs all 32 lanes of the warp");
  constexpr int aRegs = K / 2, bRegs = K / 4;
  const u32 *slots = i.more; // d0-3, a, b, c0-3
  f32 a[16][K], b[K][8], c[16][8];
  const auto tf32 = [&](u32 slot, int l) { return fromBits<f32>(w.reg<u32>(slot)[l] & ~0x1FFFu); };
  for (int l = 0; l < lanes; l++) {
    const int g = l >> 2, t = l & 3;
    for (int k = 0; k < aRegs; k++) a[g + 8 * (k & 1)][t + 4 * (k >> 1)] = tf32(slots[4 + k], l);
    for (int k = 0; k < bRegs; k++) b[t + 4 * k][g] = tf32(slots[4 + aRegs + k], l);
    for (int k = 0; k < 4; k++) c[g + 8 * (k >> 1)][2 * t + (k & 1)] = w.reg<f32>(slots[4 + aRegs + bRegs + k])[l];
  }
  for (int r = 0; r < 16; r++)
    for (int k = 0; k < K; k++)
      for (int n = 0; n < 8; n++) c[r][n] += a[r][k] * b[k][n]; // the product is exact
  for (int l = 0; l < lanes; l++)
    for (int k = 0; k < 4; k++) w.reg<f32>(slots[k])[l] = c[(l >> 2) + 8 * (k >> 1)][2 * (l & 3) + (k & 1)];
}

const Entry warp[] = {
    {"shfl.sync.up.b32", shuffle<Way::Up>, "d4|ep a4 b4 c4 f4", Class::Shuffle, 0, Flow::Converge},
    {"shfl.sync.down.b32", shuffle<Way::Down>, "d4|ep a4 b4 c4 f4", Class::Shuffle, 0, Flow::Converge},
    {"shfl.sync.bfly.b32", shuffle<Way::Butterfly>, "d4|ep a4 b4 c4 f4", Class::Shuffle, 0, Flow::Converge},
    {"shfl.sync.idx.b32", shuffle<Way::Index>, "d4|ep a4 b4 c4 f4", Class::Shuffle, 0, Flow::Converge},
    {"vote.sync.all.pred", votePredicate<[](u32 v, u32 m) { return v == m; }>, "dp ap f4", Class::Shuffle, 0,
        Flow::Converge},
    {"vote.sync.any.pred", votePredicate<[](u32 v, u32) { return v != 0; }>, "dp ap f4", Class::Shuffle, 0,
        Flow::Converge},
    {"vote.sync.uni.pred", votePredicate<[](u32 v, u32 m) { return v == m || v == 0; }>, "dp ap f4", Class::Shuffle, 0,
        Flow::Converge},
    {"vote.sync.ballot.b32", ballot, "d4 ap f4", Class::Shuffle, 0, Flow::Converge},
    {"activemask.b32", activeMask, "d4", Class::Shuffle},
    {"match.any.sync.b32", matchAny<u32>, "d4 a4 f4", Class::Shuffle, 0, Flow::Converge},
    {"match.any.sync.b64", matchAny<u64>, "d4 a8 f4", Class::Shuffle, 0, Flow::Converge},
    {"match.all.sync.b32", matchAll<u32>, "d4|ep a4 f4", Class::Shuffle, 0, Flow::Converge},
    {"match.all.sync.b64", matchAll<u64>, "d4|ep a8 f4", Class::Shuffle, 0, Flow::Converge},
    {"redux.sync.add.u32|s32", reduce<[](u32 a, u32 b) { return a + b; }, u32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.min.u32", reduce<[](u32 a, u32 b) { return a < b ? a : b; }, u32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.max.u32", reduce<[](u32 a, u32 b) { return b < a ? a : b; }, u32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.min.s32", reduce<[](s32 a, s32 b) { return a < b ? a : b; }, s32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.max.s32", reduce<[](s32 a, s32 b) { return b < a ? a : b; }, s32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.and.b32", reduce<[](u32 a, u32 b) { return a & b; }, u32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.or.b32", reduce<[](u32 a, u32 b) { return a | b; }, u32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"redux.sync.xor.b32", reduce<[](u32 a, u32 b) { return a ^ b; }, u32>, "d4 a4 f4", Class::Shuffle, 0,
        Flow::Converge},
    {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", mmaTf32<8>, "xs4 y44 y42 ys4", Class::Mma, 0,
        Flow::Converge},
    {"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32", mmaTf32<4>, "xs4 y42 y41 ys4", Class::Mma, 0,
        Flow::Converge},
};

} // namespace

EMU_TABLE(warp)

} // namespace EMU_BUILD
} // namespace emu
