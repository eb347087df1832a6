// Runs of fma.rn.f32, which the loader makes one instruction of: products of matrices as kernels write them, and the
// same with registers swapped at random, so that sums are factors, factors are written over, sums are read by others.
#include <cmath>
#include <cstring>
#include <random>

#include "optest.h"

namespace optest {

namespace {

struct Step { // load: four registers from d on, of shared memory; else one fma
  bool load;
  uint32_t d, a, b, c;
};

constexpr uint32_t lanes = 32, sharedWords = 1024, wide = 8;

float number(uint32_t word) {
  float f;
  memcpy(&f, &word, 4);
  return f;
}
uint32_t word(float f) {
  uint32_t w;
  memcpy(&w, &f, 4);
  return f != f ? 0x7FFFFFFF : w;
}

// A lane's address of shared memory for a load: all lanes alike, by groups of eight, or by place in the group.
uint32_t place(uint32_t kind, uint32_t lane) { return kind == 0 ? 0 : kind == 1 ? lane / 8 * 16 : lane % 8 * 16; }

void product(uint64_t seed, uint32_t threads, emu::Check checks, uint32_t swaps) {
  std::mt19937 random((uint32_t)seed);
  const auto upTo = [&](uint32_t n) { return (uint32_t)(random() % n); };
  const uint32_t rows = 1 + upTo(9), steps = 1 + upTo(9), all = rows * wide;
  std::vector<Step> code;
  uint32_t registers = all; // the first are the sums' beginnings
  std::vector<uint32_t> sums(all);
  for (uint32_t k = 0; k < all; k++) sums[k] = k;
  const bool back = upTo(2); // the last step's results go where the sums began
  for (uint32_t s = 0; s < steps; s++) {
    const uint32_t factors = registers, quads = (rows + wide + 3) / 4;
    for (uint32_t q = 0; q < quads; q++) code.push_back({true, factors + 4 * q, upTo(3), 16 * upTo(48), 0});
    registers += 4 * quads;
    for (uint32_t r = 0; r < rows; r++)
      for (uint32_t k = 0; k < wide; k++) {
        uint32_t &sum = sums[r * wide + k];
        const uint32_t d = back && s + 1 == steps ? r * wide + k : registers++;
        code.push_back({false, d, factors + wide + r, factors + k, sum});
        sum = d;
      }
  }
  for (uint32_t n = 0; n < swaps; n++) { // any register that has a value by then, and any to write to
    Step &x = code[upTo((uint32_t)code.size())];
    const uint32_t other = upTo(registers);
    if (x.load) continue;
    uint32_t *const fields[] = {&x.d, &x.a, &x.b, &x.c};
    *fields[upTo(4)] = other;
  }
  std::vector<uint32_t> stored = sums;
  for (uint32_t n = 0; n < swaps; n++) stored.push_back(upTo(registers));

  Run r;
  r.block = {threads, 1, 1};
  r.checks = checks;
  r.in.resize(registers * lanes + sharedWords);
  for (uint32_t &w : r.in) w = word((float)(int)(random() % 2001) / 1000 - 1);
  r.out.assign(stored.size() * lanes, 0);
  r.declarations = ".shared .align 16 .b8 sm[4096];\n";
  const auto f = [](uint32_t reg) { return "%f" + std::to_string(reg); };
  const auto plus = [](uint32_t n) { return "+" + std::to_string(n) + "]"; };
  std::string &t = r.body;
  t = ".reg .f32 %f<" + std::to_string(registers + 1) + ">, %x;\n.reg .b32 %r<4>;\n.reg .b64 %a, %o, %w, %s<4>;\n" +
      "mov.u32 %r0, %tid.x;\nmul.wide.u32 %w, %r0, 4;\nadd.s64 %a, %in, %w;\nadd.s64 %o, %out, %w;\nmov.u64 %s0, sm;\n"
      "shr.u32 %r1, %r0, 3;\nmul.wide.u32 %s1, %r1, 16;\nadd.s64 %s1, %s1, %s0;\nand.b32 %r2, %r0, 7;\n"
      "mul.wide.u32 %s2, %r2, 16;\nadd.s64 %s2, %s2, %s0;\n";
  for (uint32_t w = 0; w < sharedWords; w++) // each thread all of it: two writes of one value are no race
    t += "ld.global.f32 %x, [%in" + plus(4 * (registers * lanes + w)) + ";\nst.shared.f32 [%s0" + plus(4 * w) +
         ", %x;\n";
  t += "bar.sync 0;\n";
  for (uint32_t k = 0; k < registers; k++) t += "ld.global.f32 " + f(k) + ", [%a" + plus(4 * k * lanes) + ";\n";
  for (const Step &x : code)
    t += x.load ? "ld.shared.v4.f32 {" + f(x.d) + ", " + f(x.d + 1) + ", " + f(x.d + 2) + ", " + f(x.d + 3) + "}, [%s" +
                      std::to_string(x.a) + plus(x.b) + ";\n"
                : "fma.rn.f32 " + f(x.d) + ", " + f(x.a) + ", " + f(x.b) + ", " + f(x.c) + ";\n";
  for (uint32_t k = 0; k < stored.size(); k++)
    t += "st.global.f32 [%o" + plus(4 * k * lanes) + ", " + f(stored[k]) + ";\n";

  std::vector<uint32_t> want(r.out.size());
  for (uint32_t l = 0; l < threads; l++) {
    std::vector<float> v(registers);
    for (uint32_t k = 0; k < registers; k++) v[k] = number(r.in[k * lanes + l]);
    for (const Step &x : code)
      if (x.load)
        for (uint32_t k = 0; k < 4; k++)
          v[x.d + k] = number(r.in[registers * lanes + (place(x.a, l) + x.b) / 4 + k]);
      else v[x.d] = std::fma(v[x.a], v[x.b], v[x.c]);
    for (uint32_t k = 0; k < stored.size(); k++) want[k * lanes + l] = word(v[stored[k]]);
  }
  const std::string what = "product of seed " + std::to_string(seed) + ", " + std::to_string(threads) + " threads";
  clean(r, what);
  for (uint32_t &w : r.out) w = word(number(w));
  same(r.out, want, what);
}

} // namespace

void runs() {
  for (uint64_t seed = 1; seed <= 60; seed++)
    product(seed, seed % 5 ? 32 : 21, seed % 7 ? emu::Check::Bounds : emu::Check::Full,
            seed % 3 ? (uint32_t)(seed / 3) : 0);
}

} // namespace optest
