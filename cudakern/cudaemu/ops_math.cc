// Functions: div rcp sqrt rsqrt ex2 lg2 sin cos tanh copysign testp.
//
// What PTX calls approximate is computed to the last bit or nearly so; a GPU may be off by as much as the manual says.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

f32 reciprocalRoot(f32 x) { return (f32)(1.0 / __builtin_sqrt((f64)x)); }
template <f32 (*f)(f32)> f32 flushed(f32 x) { return flush(f(flush(x))); }
f32 exp2Of(f32 x) { return __builtin_exp2f(x); }
f32 log2Of(f32 x) { return __builtin_log2f(x); }
f32 reciprocal(f32 x) { return 1.0f / x; }
f32 root(f32 x) { return __builtin_sqrtf(x); }
f32 divide(f32 a, f32 b) { return a / b; }

// testp's kinds of floats
template <class T> bool finite(T x) { return x - x == 0; }
template <class T> bool subnormal(T x) { return __builtin_fpclassify(0, 1, 2, 3, 4, x) == 3; }
template <class T> bool normal(T x) { return __builtin_fpclassify(0, 1, 2, 3, 4, x) == 2; }

template <auto f, class A> void testp(Warp &w, const Inst &i, u32 m) {
  setPredicate(w, i.d, compared<[](A a, A) { return f(a); }, A>(w.reg<A>(i.a), w.reg<A>(i.a)), m);
}

#define EMU_TESTP(type, T, w)                                                                                          \
  {"testp.finite." type, testp<finite<T>, T>, "dp a" w, Class::Compare},                                               \
      {"testp.infinite." type, testp<[](T x) { return x == x && !finite(x); }, T>, "dp a" w, Class::Compare},          \
      {"testp.number." type, testp<[](T x) { return x == x; }, T>, "dp a" w, Class::Compare},                          \
      {"testp.notanumber." type, testp<[](T x) { return x != x; }, T>, "dp a" w, Class::Compare},                      \
      {"testp.normal." type, testp<normal<T>, T>, "dp a" w, Class::Compare},                                           \
      {"testp.subnormal." type, testp<subnormal<T>, T>, "dp a" w, Class::Compare}

const Entry math[] = {
    {"div.rn|approx|full.f32", each<divide, f32, f32, f32>, "ds as bs", Class::Special},
    {"div.rn|approx|full.ftz.f32", each<[](f32 a, f32 b) { return flush(flush(a) / flush(b)); }, f32, f32, f32>,
        "ds as bs", Class::Special},
    {"div.rn.f64", each<[](f64 a, f64 b) { return a / b; }, f64, f64, f64>, "dt at bt", Class::Double},
    {"rcp.rn|approx.f32", each<reciprocal, f32, f32>, "ds as", Class::Special},
    {"rcp.rn|approx.ftz.f32", each<flushed<reciprocal>, f32, f32>, "ds as", Class::Special},
    {"rcp.rn.f64", each<[](f64 a) { return 1.0 / a; }, f64, f64>, "dt at", Class::Double},
    {"rcp.approx.ftz.f64", each<[](f64 a) { return fromBits<f64>(toBits(1.0 / a) >> 32 << 32); }, f64, f64>, "dt at",
        Class::Double}, // the low half of the result is zero
    {"sqrt.rn|approx.f32", each<root, f32, f32>, "ds as", Class::Special},
    {"sqrt.rn|approx.ftz.f32", each<flushed<root>, f32, f32>, "ds as", Class::Special},
    {"sqrt.rn.f64", each<[](f64 a) { return __builtin_sqrt(a); }, f64, f64>, "dt at", Class::Double},
    {"rsqrt.approx.f32", each<reciprocalRoot, f32, f32>, "ds as", Class::Special},
    {"rsqrt.approx.ftz.f32", each<flushed<reciprocalRoot>, f32, f32>, "ds as", Class::Special},
    {"rsqrt.approx.?ftz.f64", each<[](f64 a) { return 1.0 / __builtin_sqrt(a); }, f64, f64>, "dt at", Class::Double},
    {"ex2.approx.f32", one<exp2Of, f32, f32>, "ds as", Class::Special},
    {"ex2.approx.ftz.f32", one<flushed<exp2Of>, f32, f32>, "ds as", Class::Special},
    {"lg2.approx.f32", one<log2Of, f32, f32>, "ds as", Class::Special},
    {"lg2.approx.ftz.f32", one<flushed<log2Of>, f32, f32>, "ds as", Class::Special},
    {"sin.approx.?ftz.f32", one<[](f32 x) { return __builtin_sinf(x); }, f32, f32>, "ds as", Class::Special},
    {"cos.approx.?ftz.f32", one<[](f32 x) { return __builtin_cosf(x); }, f32, f32>, "ds as", Class::Special},
    {"tanh.approx.f32", one<[](f32 x) { return __builtin_tanhf(x); }, f32, f32>, "ds as", Class::Special},
    {"copysign.f32", each<[](f32 a, f32 b) { return __builtin_copysignf(b, a); }, f32, f32, f32>, "ds as bs",
        Class::Float},
    {"copysign.f64", each<[](f64 a, f64 b) { return __builtin_copysign(b, a); }, f64, f64, f64>, "dt at bt",
        Class::Double},
    EMU_TESTP("f32", f32, "s"),
    EMU_TESTP("f64", f64, "t"),
};

} // namespace

EMU_TABLE(math)

} // namespace EMU_BUILD
} // namespace emu
