// Tests of single instructions: each runs on the interpreter in a kernel of its own, on special and random operands,
// for all lanes and for half of them, and is compared with an expectation computed here in another way.
#pragma once
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "../interp.h"

namespace optest {

// Operands are cells of 64 bits, of which the low ones count.
struct In {
  uint64_t a, b, c, d;
};
using Expect = std::function<uint64_t(const In &)>;

// op tests one opcode. shape is "r:rr": the result and the operands by kind: h 16 bits, r 32, l 64, f f32, g f64,
// p predicate. ulps is how far a float result may be off; NaNs are all one. text is the operands as written, where they
// are not just the result and the operands: "{D}, {A}, {B}, 0x1F".
void op(const std::string &opcode, const std::string &shape, Expect, double ulps = 0, const std::string &text = "");

// kernel runs PTX of one kernel "k" on memory: `words` 32-bit words in, as many out; parameters: out, in. It returns
// the fault. Registers and directives are the text's own.
struct Run {
  std::string body;                  // between the braces; %out and %in hold the addresses
  std::string declarations;          // before the kernel
  std::vector<uint32_t> in, out;     // out: what the memory holds at the beginning, and then at the end
  emu::Dim grid{1, 1, 1}, block{32, 1, 1};
  uint32_t dynamicShared = 0;
  emu::Check checks = emu::Check::Full;
  uint64_t seed = 0, limit = 1 << 26;
  bool outWritten = true;            // out counts as written
  emu::Counts *counts = nullptr;
};
emu::Fault run(Run &);

void covered(const std::string &opcode); // by a test of another kind
void expect(bool ok, const std::string &what);
void same(const std::vector<uint32_t> &got, const std::vector<uint32_t> &want, const std::string &what);
// clean and faulty run a kernel and want no fault, or one whose text holds `part`.
void clean(Run &, const std::string &what);
void faulty(Run &, const std::string &part, const std::string &what);

// the parts
void arithmetic();
void conversions();
void memoryOps();
void warpOps();
void flow();
void runs();
void counters();
void checks();
void refusals();

float f32(uint64_t bits);
double f64(uint64_t bits);
uint64_t bits(float);
uint64_t bits(double);

} // namespace optest
