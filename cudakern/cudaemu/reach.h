// What the addresses of a warp have in common, and how words are fetched from them: for the handlers of loads, stores
// and products.
#pragma once
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// reach is what the register's addresses (of all lanes, without the offset) have in common.
inline const Reach &reach(Warp &w, const Inst &i) {
  Reach &r = w.reaches[i.reach];
  if (!i.fresh) return r;
  const u64 *a = w.reg<u64>(i.a);
#ifdef __AVX2__
  const auto vector = [&](int k) { return _mm256_load_si256((const __m256i *)(a + 4 * k)); };
  const __m256i zero = _mm256_setzero_si256();
  __m256i broken = zero;
  const __m256i words = _mm256_setr_epi64x(0, 4, 8, 12), more = _mm256_setr_epi64x(16, 20, 24, 28);
  for (int k = 0; k < 8; k += 2) {
    const __m256i x = vector(k), y = vector(k + 1), one = _mm256_permute4x64_epi64(x, 0);
    broken = _mm256_or_si256(broken, _mm256_xor_si256(x, _mm256_add_epi64(one, words)));
    broken = _mm256_or_si256(broken, _mm256_xor_si256(y, _mm256_add_epi64(one, more)));
  }
  r.rows = _mm256_testz_si256(broken, broken);
  if (r.rows) { // then four addresses say it all
    const s64 b[4] = {(s64)a[0], (s64)a[8], (s64)a[16], (s64)a[24]};
    r.low = r.high = (u64)b[0];
    for (int k = 1; k < 4; k++) {
      r.low = b[k] < (s64)r.low ? (u64)b[k] : r.low;
      r.high = b[k] > (s64)r.high ? (u64)b[k] : r.high;
    }
    r.high += 28;
    r.bits = (u64)(b[0] | b[1] | b[2] | b[3]) | 4; // as far as it says something of alignment
    r.groups = r.period = false;
    return r;
  }
  const __m256i first = vector(0), second = vector(1);
  __m256i low = first, high = first, bits = zero, grouped = zero, periodic = zero;
  for (int k = 0; k < 8; k += 2) {
    const __m256i x = vector(k), y = vector(k + 1), one = _mm256_permute4x64_epi64(x, 0);
    bits = _mm256_or_si256(bits, _mm256_or_si256(x, y));
    low = _mm256_blendv_epi8(low, x, _mm256_cmpgt_epi64(low, x)); // above 2^63 no address is: signed comparison will do
    low = _mm256_blendv_epi8(low, y, _mm256_cmpgt_epi64(low, y));
    high = _mm256_blendv_epi8(high, x, _mm256_cmpgt_epi64(x, high));
    high = _mm256_blendv_epi8(high, y, _mm256_cmpgt_epi64(y, high));
    grouped = _mm256_or_si256(grouped, _mm256_or_si256(_mm256_xor_si256(x, one), _mm256_xor_si256(y, one)));
    periodic = _mm256_or_si256(periodic, _mm256_or_si256(_mm256_xor_si256(x, first), _mm256_xor_si256(y, second)));
  }
  alignas(32) s64 lows[4], highs[4];
  alignas(32) u64 ors[4];
  _mm256_store_si256((__m256i *)lows, low);
  _mm256_store_si256((__m256i *)highs, high);
  _mm256_store_si256((__m256i *)ors, bits);
  s64 least = lows[0], most = highs[0];
  for (int k = 1; k < 4; k++) {
    least = lows[k] < least ? lows[k] : least;
    most = highs[k] > most ? highs[k] : most;
  }
  r.low = (u64)least;
  r.high = (u64)most;
  r.bits = ors[0] | ors[1] | ors[2] | ors[3];
  r.groups = _mm256_testz_si256(grouped, grouped);
  r.period = _mm256_testz_si256(periodic, periodic);
#else
  r = {a[0], a[0], 0, true, true, true};
  for (int l = 0; l < lanes; l++) {
    r.low = (s64)a[l] < (s64)r.low ? a[l] : r.low;
    r.high = (s64)a[l] > (s64)r.high ? a[l] : r.high;
    r.bits |= a[l];
    r.groups = r.groups && a[l] == a[l & ~7];
    r.period = r.period && a[l] == a[l & 7];
    r.rows = r.rows && a[l] == a[l & ~7] + 4 * (u64)(l & 7);
  }
#endif
  return r;
}

// Four words of each of `count` lanes (a multiple of 8), to registers that hold one word of all lanes; `repeat`: the
// other lanes get the same, 8 by 8.
inline void gather4(const u8 *from, const u64 *at, u32 *const *d, int count, bool repeat) {
#ifdef __AVX2__
  for (int l = 0; l < count; l += 8) {
    const auto two = [&](int k) {
      return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(from + at[l + k]))),
          _mm_loadu_ps((const float *)(from + at[l + k + 4])), 1);
    };
    const __m256 a = two(0), b = two(1), c = two(2), e = two(3);
    const __m256 ab = _mm256_unpacklo_ps(a, b), AB = _mm256_unpackhi_ps(a, b);
    const __m256 ce = _mm256_unpacklo_ps(c, e), CE = _mm256_unpackhi_ps(c, e);
    const __m256 out[4] = {_mm256_shuffle_ps(ab, ce, 0x44), _mm256_shuffle_ps(ab, ce, 0xEE),
        _mm256_shuffle_ps(AB, CE, 0x44), _mm256_shuffle_ps(AB, CE, 0xEE)};
    for (int k = 0; k < 4; k++)
      for (int to = l; to < (repeat ? lanes : l + 8); to += 8) _mm256_store_ps((float *)(d[k] + to), out[k]);
  }
#else
  for (int l = 0; l < count; l++) {
    u32 v[4];
    memcpy(v, from + at[l], 16);
    for (int k = 0; k < 4; k++)
      for (int to = l; to < (repeat ? lanes : l + 1); to += 8) d[k][to] = v[k];
  }
#endif
}

} // namespace
} // namespace EMU_BUILD
} // namespace emu
