// optest: runs all tests of instructions and of checks; prints what fails, exit status 1 if anything did.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

#include "../loader.h"
#include "optest.h"

using namespace emu;

namespace optest {

namespace {

int failures = 0, tests = 0;
std::set<std::string> tested;

struct Case {
  std::string opcode, shape, text;
  Expect expect;
  double ulps;
};
std::vector<Case> cases;

std::vector<uint64_t> specials(char kind) {
  switch (kind) {
  case 'h': return {0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x1234, 0xFFF0};
  case 'r': return {0, 1, 2, 3, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x8000, 0xFFFF, 0x12345678, 0x7FFFFFFF, 0x80000000,
        0x80000001, 0xFFFFFFFE, 0xFFFFFFFF};
  case 'l': return {0, 1, 2, 31, 63, 64, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000,
        0x123456789ABCDEF0, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF00000000};
  case 'f': {
    std::vector<uint64_t> v;
    for (float x : {0.0f,
                    -0.0f,
                    1.0f,
                    -1.0f,
                    0.5f,
                    1.5f,
                    2.5f,
                    -2.5f,
                    3.0e-39f,
                    -1e-45f,
                    3.402823466e38f,
                    127.5f,
                    -128.5f,
                    255.5f,
                    32767.5f,
                    -32768.5f,
                    65535.5f,
                    2147483648.0f,
                    -2147483648.0f,
                    4294967040.0f,
                    4294967296.0f,
                    9.2233720e18f,
                    1.8446744e19f,
                    1e-3f,
                    7.0f})
      v.push_back(bits(x));
    for (uint64_t b : {0x7F800000ull, 0xFF800000ull, 0x7FC00000ull, 0x00800000ull}) v.push_back((uint32_t)b);
    return v;
  }
  case 'g': {
    std::vector<uint64_t> v;
    for (double x : {0.0, -0.0, 1.0, -1.0, 0.5, 1.5, -2.5, 1e-310, 1e308, 127.5, -128.5, 2147483647.5, -2147483648.5,
             4294967295.5, 9.3e18, -9.3e18, 1.9e19, 3.4028235677973366e38, 1e-46, 7.0, 1.0000000596046448})
      v.push_back(bits(x));
    for (uint64_t b : {0x7FF0000000000000ull, 0xFFF0000000000000ull, 0x7FF8000000000000ull}) v.push_back(b);
    return v;
  }
  default: return {0, 1};
  }
}

uint64_t anything(char kind, std::mt19937_64 &random) {
  const uint64_t r = random();
  switch (kind) {
  case 'h': return r & 0xFFFF;
  case 'r': return (r >> 32 & 1) ? r & 0xFFFFFFFF : r & 0x3F;
  case 'f': {
    if (r & 1) return (uint32_t)(r >> 16); // any bits
    std::uniform_real_distribution<float> u(-100, 100);
    return bits(u(random));
  }
  case 'g': {
    if (r & 1) return random();
    std::uniform_real_distribution<double> u(-1000, 1000);
    return bits(u(random));
  }
  case 'p': return r & 1;
  default: return (r & 1) ? random() : r >> 1 & 0x7F;
  }
}

int width(char kind) { return kind == 'h' ? 2 : kind == 'r' || kind == 'f' || kind == 'p' ? 4 : 8; }
uint64_t masked(uint64_t v, char kind) {
  return width(kind) == 2 ? v & 0xFFFF : width(kind) == 4 ? v & 0xFFFFFFFF : v;
}

bool near(uint64_t got, uint64_t want, char kind, double ulps) {
  got = masked(got, kind), want = masked(want, kind);
  if (got == want) return true;
  if (kind == 'f') {
    const float g = f32(got), w = f32(want);
    if (g != g || w != w) return g != g && w != w;
    return ulps > 0 && std::fabs((double)g - w) <= ulps * std::max(std::fabs((double)w) * 0x1p-23, 0x1p-149);
  }
  if (kind == 'g') {
    const double g = f64(got), w = f64(want);
    if (g != g || w != w) return g != g && w != w;
    return ulps > 0 && std::fabs(g - w) <= ulps * std::fabs(w) * 0x1p-52;
  }
  return false;
}

std::string replace(std::string s, const std::string &what, const std::string &with) {
  for (size_t at; (at = s.find(what)) != s.npos;) s.replace(at, what.size(), with);
  return s;
}

constexpr int cells = 1024;
constexpr uint64_t untouched = 0x5A5A5A5A5A5A5A5A;

std::string registerOf(char kind, int n) {
  const std::string name = kind == 'h' ? "%h" : kind == 'r' ? "%r" : kind == 'l' ? "%d" : kind == 'f' ? "%f"
                         : kind == 'g' ? "%g" : "%q";
  return name + std::to_string(n);
}
std::string typeOf(char kind) {
  return kind == 'h' ? "u16" : kind == 'r' ? "u32" : kind == 'f' ? "f32" : kind == 'g' ? "f64" : "u64";
}

std::string kernelText(const Case &c, const std::string &name, bool half) {
  std::string k =
      ".visible .entry " + name +
      "(.param .u64 out, .param .u64 in)\n{\n"
      ".reg .pred %q<9>, %half;\n.reg .b16 %h<9>;\n.reg .b32 %r<9>, %t<4>;\n.reg .b64 %d<9>, %x<4>;\n"
      ".reg .f32 %f<9>;\n.reg .f64 %g<9>;\n"
      "ld.param.u64 %x0, [out];\nld.param.u64 %x1, [in];\n"
      "mov.u32 %t0, %ctaid.x;\nmov.u32 %t1, %ntid.x;\nmov.u32 %t2, %tid.x;\nmad.lo.s32 %t0, %t0, %t1, %t2;\n"
      "mul.wide.u32 %x2, %t0, 8;\nadd.s64 %x0, %x0, %x2;\nmul.wide.u32 %x2, %t0, 32;\nadd.s64 %x1, %x1, %x2;\n"
      "and.b32 %t3, %t2, 1;\nsetp.eq.u32 %half, %t3, 1;\n";
  const std::string kinds = c.shape.substr(2);
  for (size_t i = 0; i < kinds.size(); i++) {
    const std::string at = "[%x1+" + std::to_string(8 * i) + "]";
    if (kinds[i] == 'p') k += "ld.global.u32 %t3, " + at + ";\nsetp.ne.u32 %q" + std::to_string(i + 1) + ", %t3, 0;\n";
    else k += "ld.global." + typeOf(kinds[i]) + " " + registerOf(kinds[i], (int)i + 1) + ", " + at + ";\n";
  }
  const char result = c.shape[0];
  const std::string d = registerOf(result, 0);
  if (result == 'p') k += "setp.ne.u32 %q0, %t1, 0;\n"; // true
  else if (result == 'h') k += "mov.u16 %h0, 0x5A5A;\n";
  else if (result == 'f') k += "mov.f32 %f0, 0f5A5A5A5A;\n";
  else if (result == 'g') k += "mov.f64 %g0, 0d5A5A5A5A5A5A5A5A;\n";
  else k += "mov." + typeOf(result) + " " + d + ", " + (result == 'r' ? "0x5A5A5A5A" : "0x5A5A5A5A5A5A5A5A") + ";\n";
  std::string text = c.text;
  if (text.empty()) {
    text = "{D}";
    for (size_t i = 0; i < kinds.size(); i++) text += std::string(", {") + "ABCE"[i] + "}";
  }
  // in two steps, so that {D} is the result and the fourth operand is {E}
  text = replace(text, "{D}", d);
  for (size_t i = 0; i < kinds.size(); i++)
    text = replace(text, i == 3 ? "{E}" : std::string("{") + (char)('A' + i) + "}", registerOf(kinds[i], (int)i + 1));
  k += std::string(half ? "@%half " : "") + c.opcode + " " + text + ";\n";
  if (result == 'p') k += "selp.u32 %t3, 1, 0, %q0;\nst.global.u32 [%x0], %t3;\n";
  else k += "st.global." + typeOf(result) + " [%x0], " + d + ";\n";
  return k + "ret;\n}\n";
}

const char *const heading = ".version 7.8\n.target sm_80\n.address_size 64\n";

void runCases() {
  std::string text = heading;
  for (size_t i = 0; i < cases.size(); i++)
    for (int half = 0; half < 2; half++)
      text += kernelText(cases[i], "t" + std::to_string(i) + (half ? "h" : "f"), half);
  Memory memory;
  std::unique_ptr<Module> m;
  if (Fault f = Module::load(text, nullptr, &m)) {
    size_t at = 0;
    const long line = strtol(f.text.c_str() + 9, nullptr, 10);
    for (long l = 1; l < line; l++) at = text.find('\n', at) + 1;
    return expect(false, f.text + ": " + text.substr(at, text.find('\n', at) - at));
  }
  uint64_t out = 0, in = 0;
  memory.allocate(8 * cells, 0, Kind::Device, nullptr, &out);
  memory.allocate(32 * cells, 0, Kind::Device, nullptr, &in);
  for (size_t i = 0; i < cases.size(); i++) {
    const Case &c = cases[i];
    std::mt19937_64 random(i + 1);
    std::vector<In> values(cells);
    std::vector<uint64_t> special[4];
    for (size_t k = 2; k < c.shape.size(); k++) special[k - 2] = specials(c.shape[k]);
    for (int t = 0; t < cells; t++) {
      uint64_t *const v = &values[t].a;
      uint64_t left = (uint64_t)t;
      for (size_t k = 2; k < c.shape.size(); k++) {
        const std::vector<uint64_t> &s = special[k - 2];
        const bool pairs = t < cells * 3 / 4;
        v[k - 2] =
            pairs && (k < 4 || random() & 1) ? s[(k < 4 ? left : random()) % s.size()] : anything(c.shape[k], random);
        left /= s.size();
      }
    }
    memory.write({}, in, 32 * cells, values.data());
    for (int half = 0; half < 2; half++) {
      tests++;
      memory.set({}, out, 8 * cells / 4, 0x5A5A5A5A, 4);
      const uint64_t params[2] = {out, in};
      Launch l;
      l.kernel = m->kernel("t" + std::to_string(i) + (half ? "h" : "f"));
      l.grid = {cells / 128, 1, 1};
      l.block = {128, 1, 1};
      l.params = (const uint8_t *)params;
      l.memory = &memory;
      if (Fault f = run(l)) {
        expect(false, c.opcode + ": " + f.text);
        continue;
      }
      std::vector<uint64_t> got(cells);
      memory.read({}, out, 8 * cells, got.data());
      int shown = 0;
      for (int t = 0; t < cells && shown < 3; t++) {
        const bool done = !half || (t & 1);
        const uint64_t want = done ? c.expect(values[t]) : c.shape[0] == 'p' ? 1 : untouched;
        if (near(got[t], want, c.shape[0], done ? c.ulps : 0)) continue;
        char line[256];
        snprintf(line, sizeof line, "%s%s of %llx, %llx, %llx, %llx: %llx, want %llx", c.opcode.c_str(),
            half ? " (half the lanes)" : "", (unsigned long long)values[t].a, (unsigned long long)values[t].b,
            (unsigned long long)values[t].c, (unsigned long long)values[t].d,
            (unsigned long long)masked(got[t], c.shape[0]), (unsigned long long)masked(want, c.shape[0]));
        expect(false, line);
        shown++;
      }
    }
  }
}

// everyEntry: all lines of the tables are tested, with each type they are for.
void everyEntry() {
  for (const Table &t : chosenOps().tables)
    for (size_t k = 0; k < t.count; k++) {
      std::string pattern = t.entries[k].pattern;
      if (pattern.compare(0, 6, "widen.") == 0 || pattern.compare(0, 6, "clock.") == 0) continue; // no opcodes of PTX
      const size_t dot = pattern.rfind('.');
      std::string types = dot == pattern.npos ? "" : pattern.substr(dot + 1);
      const bool optional = !types.empty() && types[0] == '?';
      for (size_t at = 0; at != std::string::npos;) {
        const size_t end = types.find('|', at);
        const std::string one = optional || types.empty() ? pattern
            : pattern.substr(0, dot + 1) + types.substr(at, end == types.npos ? end : end - at);
        at = optional || end == types.npos ? std::string::npos : end + 1;
        const bool found = std::any_of(tested.begin(), tested.end(),
                                       [&](const std::string &o) { return matchesPattern(one.c_str(), o); });
        expect(found, "no test covers " + one);
      }
    }
}

} // namespace

float f32(uint64_t b) {
  const uint32_t w = (uint32_t)b;
  float f;
  memcpy(&f, &w, 4);
  return f;
}
double f64(uint64_t b) {
  double d;
  memcpy(&d, &b, 8);
  return d;
}
uint64_t bits(float f) {
  uint32_t w;
  memcpy(&w, &f, 4);
  return w;
}
uint64_t bits(double d) {
  uint64_t w;
  memcpy(&w, &d, 8);
  return w;
}

void op(const std::string &opcode, const std::string &shape, Expect e, double ulps, const std::string &text) {
  cases.push_back({opcode, shape, text, std::move(e), ulps});
  tested.insert(opcode);
}
void covered(const std::string &opcode) { tested.insert(opcode); }

void expect(bool ok, const std::string &what) {
  tests++;
  if (ok) return;
  if (++failures <= 100) printf("FAIL %s\n", what.c_str());
}

void same(const std::vector<uint32_t> &got, const std::vector<uint32_t> &want, const std::string &what) {
  for (size_t i = 0; i < want.size(); i++)
    if (i >= got.size() || got[i] != want[i]) {
      char text[96];
      snprintf(text, sizeof text, ": word %zu is %x, want %x", i, i < got.size() ? got[i] : 0, want[i]);
      return expect(false, what + text);
    }
  expect(true, what);
}

emu::Fault run(Run &r) {
  Memory memory(r.checks);
  uint64_t out = 0, in = 0;
  std::unique_ptr<Module> m;
  const std::string text = std::string(heading) + r.declarations +
      "\n.visible .entry k(.param .u64 out_, .param .u64 in_)\n{\n.reg .b64 %out, %in;\n"
      "ld.param.u64 %out, [out_];\nld.param.u64 %in, [in_];\n" + r.body + "\nret;\n}\n";
  if (Fault f = Module::load(text, Module::placeIn(memory, 0, nullptr), &m)) return f;
  const uint64_t n = 4 * std::max<size_t>(r.out.size(), 1), ni = 4 * std::max<size_t>(r.in.size(), 1);
  if (Fault f = memory.allocate(n, 0, Kind::Device, nullptr, &out)) return f;
  if (Fault f = memory.allocate(ni, 0, Kind::Device, nullptr, &in)) return f;
  if (!r.in.empty()) memory.write({}, in, ni, r.in.data());
  if (r.outWritten && !r.out.empty()) memory.write({}, out, n, r.out.data());
  const uint64_t params[2] = {out, in};
  Launch l;
  l.kernel = m->kernel("k");
  l.grid = r.grid;
  l.block = r.block;
  l.dynamicShared = r.dynamicShared;
  l.params = (const uint8_t *)params;
  l.memory = &memory;
  l.checks = r.checks;
  l.seed = r.seed;
  l.limit = r.limit;
  l.counts = r.counts;
  if (Fault f = run(l)) return f;
  if (r.outWritten && !r.out.empty()) return memory.read({}, out, n, r.out.data());
  return {};
}

void clean(Run &r, const std::string &what) {
  const Fault f = run(r);
  expect(!f, what + ": " + f.text);
}
void faulty(Run &r, const std::string &part, const std::string &what) {
  const Fault f = run(r);
  expect((bool)f, what + ": no fault");
  if (f) expect(f.text.find(part) != std::string::npos, what + ": another fault: " + f.text);
}

} // namespace optest

int main() {
  using namespace optest;
  arithmetic();
  conversions();
  memoryOps();
  warpOps();
  flow();
  runs();
  counters();
  checks();
  refusals();
  runCases();
  everyEntry();
  printf("%s: %d tests of instructions and checks, %d failed\n", simdName(), tests, failures);
  return failures ? 1 : 0;
}
