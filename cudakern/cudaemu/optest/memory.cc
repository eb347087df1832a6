// Loads, stores and atomics: spaces, widths, vectors, extension, addresses; and what must be refused.
#include "optest.h"

namespace optest {

namespace {

std::string text(long n) { return std::to_string(n); }

std::vector<uint32_t> pattern(size_t n) {
  std::vector<uint32_t> v(n);
  for (size_t i = 0; i < n; i++) v[i] = (uint32_t)(i * 2654435761u) ^ 0x80FF7F01;
  return v;
}

struct Type {
  std::string name;
  int bytes;
  bool isSigned;
};
const std::vector<Type> types = {{"u8", 1, false},  {"s8", 1, true},   {"b8", 1, false},  {"u16", 2, false},
                                 {"s16", 2, true},  {"b16", 2, false}, {"u32", 4, false}, {"s32", 4, true},
                                 {"b32", 4, false}, {"f32", 4, false}, {"u64", 8, false}, {"s64", 8, true},
                                 {"b64", 8, false}, {"f64", 8, false}};

uint64_t element(const std::vector<uint32_t> &words, size_t byte, const Type &t) {
  uint64_t v = 0;
  for (int b = 0; b < t.bytes; b++) v |= (uint64_t)(words[(byte + b) / 4] >> 8 * ((byte + b) % 4) & 0xFF) << 8 * b;
  if (t.isSigned && t.bytes < 8 && v >> (8 * t.bytes - 1)) v |= ~0ull << 8 * t.bytes;
  return v;
}

// Each lane loads a vector of a type from memory of a space and stores it as 64-bit cells: so the upper bits show.
void loads() {
  for (const std::string space :
       {"global", "shared", "local", "generic global", "generic shared", "generic local", "const"})
    for (const Type &t : types)
      for (int count : {1, 2, 4})
        for (int width : {2, 4, 8}) {
          if (t.bytes * count > 16 || width < std::max(t.bytes, 2)) continue;
          if ((t.name[0] == 'f' || t.name[0] == 'b') && width != std::max(t.bytes, 2)) continue;
          const int bytes = t.bytes * count;
          const bool generic = space.compare(0, 7, "generic") == 0;
          const std::string base = generic ? space.substr(8) : space;
          const std::string reg = width == 2   ? "%h"
                                  : width == 4 ? (t.name == "f32" ? "%f" : "%r")
                                               : (t.name == "f64" ? "%g" : "%d");
          std::string list, stores;
          for (int k = 0; k < count; k++) {
            list += (k ? ", " : "") + reg + text(k);
            const std::string from = reg + text(k), at = "[%o+" + text(8 * k) + "]";
            // what the register holds is widened without its sign, as a cell
            if (width == 2) stores += "cvt.u64.u16 %d7, " + from + ";\nst.global.u64 " + at + ", %d7;\n";
            else if (reg == "%f")
              stores += "mov.b32 %r7, " + from + ";\ncvt.u64.u32 %d7, %r7;\nst.global.u64 " + at + ", %d7;\n";
            else if (width == 4) stores += "cvt.u64.u32 %d7, " + from + ";\nst.global.u64 " + at + ", %d7;\n";
            else stores += "st.global.b64 " + at + ", " + from + ";\n";
          }
          if (count > 1) list = "{" + list + "}";
          Run r;
          r.in = pattern(32 * 4);
          r.out.assign(32 * 8, 0xEEEEEEEE);
          r.body = ".reg .b16 %h<9>;\n.reg .b32 %r<9>;\n.reg .b64 %d<9>, %a, %o, %s, %i;\n.reg .f32 %f<9>;\n.reg .f64 "
                   "%g<9>;\n"
                   ".shared .align 16 .b8 sm[512];\n.local .align 16 .b8 lo[16];\n.reg .pred %p;\n"
                   "mov.u32 %r0, %tid.x;\nmul.wide.u32 %i, %r0, " +
                   text(bytes) +
                   ";\nmul.wide.u32 %d0, %r0, 64;\nadd.s64 %o, %out, %d0;\n"
                   "mul.wide.u32 %d1, %r0, " +
                   text(bytes) + ";\nadd.s64 %a, %in, %d1;\n";
          r.out.assign(32 * 16, 0xEEEEEEEE);
          if (base == "shared" || base == "local") { // copied there byte by byte
            r.body += base == "shared" ? "mov.u64 %s, sm;\nadd.s64 %s, %s, %i;\n" : "mov.u64 %s, lo;\n";
            for (int b = 0; b < bytes; b++)
              r.body += "ld.global.u8 %h0, [%a+" + text(b) + "];\nst." + base + ".u8 [%s+" + text(b) + "], %h0;\n";
            r.body += "mov.u64 %a, %s;\n";
            if (generic) r.body += "cvta." + base + ".u64 %a, %a;\n";
            covered("cvta." + base + ".u64");
          } else if (base == "const") {
            r.declarations = ".const .align 16 .b32 c[128] = {";
            for (int i = 0; i < 128; i++) r.declarations += (i ? "," : "") + text((long)r.in[(size_t)i]);
            r.declarations += "};\n";
            r.body += "mov.u64 %a, c;\nadd.s64 %a, %a, %i;\n";
          }
          r.body += std::string("ld") + (generic ? "" : "." + base) + (count > 1 ? ".v" + text(count) : "") + "." +
                    t.name + " " + list + ", [%a];\n" + stores;
          std::vector<uint32_t> want(32 * 16, 0xEEEEEEEE);
          for (int l = 0; l < 32; l++)
            for (int k = 0; k < count; k++) {
              uint64_t v = element(r.in, (size_t)(l * bytes + k * t.bytes), t);
              if (width == 2) v &= 0xFFFF;
              if (width == 4) v &= 0xFFFFFFFF;
              want[(size_t)(l * 16 + 2 * k)] = (uint32_t)v;
              want[(size_t)(l * 16 + 2 * k + 1)] = (uint32_t)(v >> 32);
            }
          const std::string what =
              "ld " + space + " v" + text(count) + " " + t.name + " to " + text(8 * width) + " bits";
          clean(r, what);
          same(r.out, want, what);
          r.checks = emu::Check::Bounds;
          r.out.assign(32 * 16, 0xEEEEEEEE);
          clean(r, what);
          same(r.out, want, what + " (bounds)");
        }
}

void stores() {
  for (const std::string space : {"global", "shared", "generic"})
    for (const Type &t : types)
      for (int count : {1, 2, 4}) {
        if (t.isSigned || t.bytes * count > 16) continue;
        const int bytes = t.bytes * count, words = 32 * bytes / 4;
        const std::string reg = t.bytes < 4    ? "%h"
                                : t.bytes == 4 ? (t.name == "f32" ? "%f" : "%r")
                                               : (t.name == "f64" ? "%g" : "%d");
        std::string list, fill;
        for (int k = 0; k < count; k++) {
          list += (k ? ", " : "") + reg + text(k);
          fill += "ld.global." + t.name + " " + reg + text(k) + ", [%a+" + text(k * t.bytes) + "];\n";
        }
        if (count > 1) list = "{" + list + "}";
        Run r;
        r.in = pattern((size_t)words);
        r.out.assign((size_t)words, 0);
        r.body =
            ".reg .b16 %h<9>;\n.reg .b32 %r<9>, %i;\n.reg .b64 %d<9>, %a, %o, %w;\n.reg .f32 %f<9>;\n.reg .f64 %g<9>;\n"
            ".shared .align 16 .b8 sm[512];\nmov.u32 %i, %tid.x;\nmul.wide.u32 %w, %i, " +
            text(bytes) +
            ";\n"
            "add.s64 %a, %in, %w;\nadd.s64 %o, %out, %w;\n" +
            fill;
        const std::string v = (count > 1 ? ".v" + text(count) : "") + "." + t.name + " ";
        if (space == "shared")
          r.body += "mov.u64 %w, sm;\nmul.wide.u32 %o, %i, " + text(bytes) +
                    ";\nadd.s64 %w, %w, %o;\nadd.s64 %o, %out, %o;\nst.shared" + v + "[%w], " + list + ";\nld.shared" +
                    v + list + ", [%w];\n";
        r.body += std::string("st") + (space == "generic" ? "" : ".global") + v + "[%o], " + list + ";\n";
        const std::vector<uint32_t> want = r.in;
        const std::string what = "st " + space + v;
        for (emu::Check c : {emu::Check::Full, emu::Check::Bounds}) {
          r.checks = c;
          r.out.assign((size_t)words, 0);
          clean(r, what);
          same(r.out, want, what);
        }
      }
}

// Addresses: one for all, one for 8 lanes, repeated every 8 lanes, any; in 32-bit registers; with offsets below zero.
void addresses() {
  struct Case {
    std::string name, code; // makes %r2, the index of a 16-byte cell, of %r1, the lane
    std::function<int(int)> index;
  };
  const Case cases[] = {{"one", "mov.u32 %r2, 5;", [](int) { return 5; }},
      {"groups of 8", "shr.u32 %r2, %r1, 3;", [](int l) { return l / 8; }},
      {"every 8", "and.b32 %r2, %r1, 7;", [](int l) { return l % 8; }},
      {"each", "mov.u32 %r2, %r1;", [](int l) { return l; }},
      {"backwards", "sub.s32 %r2, 31, %r1;", [](int l) { return 31 - l; }},
      {"scattered", "mul.lo.s32 %r2, %r1, 7;\nand.b32 %r2, %r2, 31;", [](int l) { return l * 7 % 32; }}};
  for (const Case &c : cases)
    for (const std::string space : {"shared", "global"})
      for (const int count : {1, 2, 4})
        for (const bool half : {false, true}) {
          Run r;
          r.in = pattern(32 * 4);
          r.out.assign(32 * 4, 7);
          r.checks = emu::Check::Bounds;
          const std::string list = count == 1 ? "%r4" : count == 2 ? "{%r4, %r5}" : "{%r4, %r5, %r6, %r7}";
          const std::string v = count == 1 ? ".u32 " : ".v" + text(count) + ".u32 ";
          r.body = ".reg .b32 %r<10>;\n.reg .b64 %d<6>;\n.reg .pred %p;\n.shared .align 16 .b8 sm[512];\n"
                   "mov.u32 %r1, %tid.x;\nmul.wide.u32 %d0, %r1, 16;\nadd.s64 %d1, %in, %d0;\nadd.s64 %d3, %out, %d0;\n"
                   "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%d1];\nmov.u64 %d2, sm;\nadd.s64 %d2, %d2, %d0;\n"
                   "st.shared.v4.u32 [%d2], {%r4, %r5, %r6, %r7};\nbar.warp.sync -1;\n"
                   "mov.u32 %r4, 7;\nmov.u32 %r5, 7;\nmov.u32 %r6, 7;\nmov.u32 %r7, 7;\n" + c.code + "\n";
          if (space == "shared") r.body += "mov.u32 %r3, sm;\nmad.lo.s32 %r3, %r2, 16, %r3;\n";
          else r.body += "mul.wide.u32 %d2, %r2, 16;\nadd.s64 %d2, %d2, %in;\nadd.s64 %d2, %d2, 64;\n";
          r.body += "and.b32 %r8, %r1, 1;\nsetp.eq.u32 %p, %r8, 0;\n";
          r.body += std::string(half ? "@%p " : "") + "ld." + space + v + list +
                    (space == "shared" ? ", [%r3];\n" : ", [%d2+-64];\n");
          r.body += "st.global.v4.u32 [%d3], {%r4, %r5, %r6, %r7};\n";
          std::vector<uint32_t> want(32 * 4, 7);
          for (int l = 0; l < 32; l++)
            for (int k = 0; k < count; k++)
              if (!half || l % 2 == 0) want[(size_t)(l * 4 + k)] = r.in[(size_t)(c.index(l) * 4 + k)];
          const std::string what = "ld." + space + v + "from " + c.name + (half ? " (half the lanes)" : "");
          clean(r, what);
          same(r.out, want, what);
        }
  // one register, several offsets, and the register changes in between
  Run r;
  r.in = pattern(128);
  r.out.assign(32 * 3, 0);
  r.checks = emu::Check::Bounds;
  r.body =
      ".reg .b32 %r<6>;\n.reg .b64 %d<4>;\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %d0, %r0, 4;\nadd.s64 %d1, %in, %d0;\n"
      "ld.global.u32 %r1, [%d1];\nld.global.u32 %r2, [%d1+128];\nadd.s64 %d1, %d1, %d0;\nld.global.u32 %r3, [%d1];\n"
      "add.s64 %d2, %out, %d0;\nst.global.u32 [%d2], %r1;\nst.global.u32 [%d2+128], %r2;\nst.global.u32 [%d2+256], "
      "%r3;\n";
  std::vector<uint32_t> want(96);
  for (size_t l = 0; l < 32; l++) want[l] = r.in[l], want[l + 32] = r.in[l + 32], want[l + 64] = r.in[2 * l];
  clean(r, "offsets");
  same(r.out, want, "offsets");
}

void parameters() {
  // sign and zero extension where a register is wider than the parameter: the high half must not keep old bits
  Run r;
  r.out.assign(8, 0);
  r.declarations = ".visible .entry other(.param .u32 x) { ret; }";
  r.body = ".reg .b64 %d<6>;\n.reg .b32 %r<3>;\nmov.u64 %d0, -1;\nmov.u64 %d1, -1;\n"
           "ld.param.u32 %d0, [out_];\nld.param.s32 %d1, [out_+4];\nld.param.u8 %r0, [out_];\nld.param.v2.u32 {%r1, "
           "%r2}, [out_];\n"
           "shr.u64 %d2, %d0, 32;\nst.global.u64 [%out], %d2;\nsub.s64 %d1, %d1, 0;\nshl.b64 %d1, %d1, 32;\nand.b64 "
           "%d0, %d0, 0xFFFFFFFF;\n"
           "or.b64 %d0, %d0, %d1;\nsub.s64 %d0, %d0, %out;\nst.global.u64 [%out+8], %d0;\n"
           "cvt.u64.u32 %d3, %r1;\nmov.b64 %d4, {%r1, %r2};\nsub.s64 %d4, %d4, %out;\nst.global.u64 [%out+16], %d4;\n";
  r.block = {1, 1, 1};
  clean(r, "ld.param");
  same(r.out, {0, 0, 0, 0, 0, 0, 0, 0}, "ld.param");
}

uint64_t low(uint64_t v, int bits) { return bits == 64 ? v : v & 0xFFFFFFFF; }
int64_t sign(uint64_t v, int bits) { return bits == 64 ? (int64_t)v : (int32_t)v; }

// Each lane applies an atomic to one word, in ascending order of lanes; old values and the last content are compared.
void atomics() {
  using F = std::function<uint64_t(uint64_t old, uint64_t b, uint64_t c)>;
  const auto check = [](const std::string &op, const std::string &type, int bits, F f, bool third) {
    for (const std::string space : {"global", "shared", ""})
      for (const bool red : {false, true}) {
        if (red && (third || op == "exch")) continue;
        const std::string k = bits == 64 ? (type == "f64" ? "%g" : "%d") : type == "f32" ? "%f" : "%r";
        const std::string u = bits == 64 ? "b64" : "b32";
        Run r;
        r.in = pattern(32 * 4 + 4);
        if (type[0] == 'f')
          for (size_t i = 0; i < r.in.size(); i++)
            r.in[i] = bits == 32 ? (uint32_t)optest::bits((float)i * 0.37f)
                                 : (uint32_t)(optest::bits((double)(i / 2) * 0.37) >> (i % 2 ? 32 : 0));
        r.out.assign(32 * 2 + 2, 0);
        const std::string name =
            std::string(red ? "red" : "atom") + (space.empty() ? "" : "." + space) + "." + op + "." + type;
        const std::string target = space == "shared" ? "[sm]" : "[%out]";
        r.body = ".reg .b32 %r<9>, %i;\n.reg .b64 %d<9>, %a, %o, %w;\n.reg .f32 %f<9>;\n.reg .f64 %g<9>;\n.shared "
                 ".align 8 .b64 sm;\n"
                 "mov.u32 %i, %tid.x;\nmul.wide.u32 %w, %i, 16;\nadd.s64 %a, %in, %w;\nmul.wide.u32 %w, %i, "
                 "8;\nadd.s64 %o, %out, %w;\n"
                 "ld.global." +
                 u + " " + k + "1, [%a+16];\nld.global." + u + " " + k + "2, [%a+24];\n";
        if (space == "shared")
          r.body += "{ .reg .pred %p; setp.eq.u32 %p, %i, 0; ld.global.b64 %d7, [%out]; @%p st.shared.b64 [sm], %d7; "
                    "}\nbar.sync 0;\n";
        r.body += name + " " + (red ? "" : k + "0, ") + target + ", " + k + "1" + (third ? ", " + k + "2" : "") +
                  ";\nbar.sync 0;\n";
        if (space == "shared")
          r.body +=
              "{ .reg .pred %p; setp.eq.u32 %p, %i, 0; ld.shared.b64 %d7, [sm]; @%p st.global.b64 [%out], %d7; }\n";
        if (!red) r.body += "st.global." + u + " [%o+8], " + k + "0;\n";
        const auto cell = [&](size_t i) { return r.in[i] | (uint64_t)r.in[i + 1] << 32; };
        uint64_t value = cell(4 * 4);
        r.out[0] = (uint32_t)value, r.out[1] = bits == 64 ? (uint32_t)(value >> 32) : 0;
        std::vector<uint32_t> want(r.out.size(), 0);
        value = low(value, bits);
        for (size_t l = 0; l < 32; l++) {
          if (!red) want[2 + 2 * l] = (uint32_t)value, want[3 + 2 * l] = bits == 64 ? (uint32_t)(value >> 32) : 0;
          value = low(f(value, low(cell(l * 4 + 4), bits), low(cell(l * 4 + 6), bits)), bits);
        }
        want[0] = (uint32_t)value, want[1] = bits == 64 ? (uint32_t)(value >> 32) : r.out[1];
        clean(r, name);
        same(r.out, want, name);
        covered(name);
      }
  };
  for (const int b : {32, 64}) {
    const std::string n = std::to_string(b), u = "u" + n, s = "s" + n, x = "b" + n;
    check("add", u, b, [](uint64_t o, uint64_t v, uint64_t) { return o + v; }, false);
    check("add", s, b, [](uint64_t o, uint64_t v, uint64_t) { return o + v; }, false);
    check("and", x, b, [](uint64_t o, uint64_t v, uint64_t) { return o & v; }, false);
    check("or", x, b, [](uint64_t o, uint64_t v, uint64_t) { return o | v; }, false);
    check("xor", x, b, [](uint64_t o, uint64_t v, uint64_t) { return o ^ v; }, false);
    check("exch", x, b, [](uint64_t, uint64_t v, uint64_t) { return v; }, false);
    check("cas", x, b, [](uint64_t o, uint64_t v, uint64_t c) { return o == v ? c : o; }, true);
    check("min", u, b, [](uint64_t o, uint64_t v, uint64_t) { return std::min(o, v); }, false);
    check("max", u, b, [](uint64_t o, uint64_t v, uint64_t) { return std::max(o, v); }, false);
    check("min", s, b, [b](uint64_t o, uint64_t v, uint64_t) { return sign(o, b) < sign(v, b) ? o : v; }, false);
    check("max", s, b, [b](uint64_t o, uint64_t v, uint64_t) { return sign(o, b) > sign(v, b) ? o : v; }, false);
  }
  check("inc", "u32", 32, [](uint64_t o, uint64_t v, uint64_t) { return o >= v ? 0 : o + 1; }, false);
  check("dec", "u32", 32, [](uint64_t o, uint64_t v, uint64_t) { return o == 0 || o > v ? v : o - 1; }, false);
  check(
      "add", "f32", 32, [](uint64_t o, uint64_t v, uint64_t) { return bits((float)((double)f32(o) + f32(v))); }, false);
  check("add", "f64", 64, [](uint64_t o, uint64_t v, uint64_t) { return bits(f64(o) + f64(v)); }, false);
  covered("red.global.exch.b32"); // has no result: it is a store, and no compiler writes it
  covered("red.global.exch.b64");
}

void places() {
  Run r;
  r.out.assign(3, 9);
  r.block = {1, 1, 1};
  r.body =
      ".reg .pred %p<4>;\n.reg .b32 %r<4>;\n.reg .b64 %d<3>;\n.shared .align 4 .b32 sm;\n.local .align 4 .b32 lo;\n"
      "mov.u64 %d0, sm;\ncvta.shared.u64 %d0, %d0;\nmov.u64 %d1, lo;\ncvta.local.u64 %d1, %d1;\n"
      "isspacep.shared %p0, %d0;\nisspacep.local %p1, %d1;\nisspacep.global %p2, %out;\n"
      "selp.u32 %r0, 1, 0, %p0;\nselp.u32 %r1, 1, 0, %p1;\nselp.u32 %r2, 1, 0, %p2;\n"
      "isspacep.global %p3, %d0;\nselp.u32 %r3, 2, 0, %p3;\nadd.s32 %r2, %r2, %r3;\n"
      "prefetch.global.L1 [%out];\nprefetch.L2 [%out];\nprefetchu.L1 [%out];\ncvta.to.shared.u64 %d0, "
      "%d0;\nst.shared.u32 [%d0], %r0;\n"
      "ld.shared.u32 %r0, [sm];\ncvta.to.local.u64 %d1, %d1;\nst.local.u32 [%d1], %r1;\nld.local.u32 %r1, [lo];\n"
      "st.global.u32 [%out], %r0;\nst.global.u32 [%out+4], %r1;\nst.global.u32 [%out+8], %r2;\n";
  clean(r, "isspacep");
  same(r.out, {1, 1, 1}, "isspacep");
  for (const char *o : {"isspacep.shared", "isspacep.local", "isspacep.global", "prefetch.global.L1", "prefetch.L2",
           "prefetchu.L1", "cvta.to.shared.u64", "cvta.to.local.u64"})
    covered(o);
  // variables of the module: initial content, addresses, both sides of an update
  Run v;
  v.out.assign(3, 0);
  v.block = {1, 1, 1};
  v.declarations = ".global .align 4 .u32 counter = 41;\n.global .align 8 .b8 bytes[8] = {1, 2, 3, 4};\n"
                   ".const .align 4 .f32 half = 0f3F000000;\n";
  v.body = ".reg .b32 %r<3>;\n.reg .f32 %f;\n.reg .b64 %d;\nld.global.u32 %r0, [counter];\nadd.s32 %r0, %r0, "
           "1;\nst.global.u32 [counter], %r0;\n"
           "ld.global.u32 %r1, [counter];\nst.global.u32 [%out], %r1;\nmov.u64 %d, bytes;\nld.global.u32 %r2, [%d];\n"
           "st.global.u32 [%out+4], %r2;\nld.const.f32 %f, [half];\nst.global.f32 [%out+8], %f;\n";
  clean(v, "variables");
  same(v.out, {42, 0x04030201, 0x3F000000}, "variables");
}

} // namespace

void memoryOps() {
  loads();
  stores();
  addresses();
  parameters();
  atomics();
  places();
}

} // namespace optest
