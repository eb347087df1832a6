// Some lanes at once, for the handlers of fma.
#pragma once
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// Some lanes at once, as many as the processor adds in one instruction.
#ifdef __AVX2__
using Some = __m256;
inline Some load(const char *p) { return _mm256_load_ps((const float *)p); }
inline void store(char *p, Some v) { _mm256_store_ps((float *)p, v); }
inline Some fma(Some a, Some b, Some c) { return _mm256_fmadd_ps(a, b, c); }
inline Some spread(const f32 *p) { return _mm256_broadcast_ss(p); }
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
inline Some spread(const f32 *p) { return {{*p, *p, *p, *p}}; }
inline Some fma(Some a, Some b, Some c) {
  for (int l = 0; l < 4; l++) c.v[l] = __builtin_fmaf(a.v[l], b.v[l], c.v[l]);
  return c;
}
#endif

} // namespace
} // namespace EMU_BUILD
} // namespace emu
