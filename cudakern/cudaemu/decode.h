// From statements of PTX to instructions of the machine: the tables of opcodes and the decoded program.
//
// An opcode is one line of a table in an ops_*.cc: pattern, handler, operands, class. To find an instruction, search
// the ops_*.cc for its name; the handler stands in that line or right above it.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"
#include "ptx.h"
#include "ptx_lex.h"
#include "runs.h"

namespace emu {

// Entry is one line of a table.
struct Entry {
  // pattern: opcode and modifiers, in order. "?x" may be missing, "x|y" is either: "add.?rn.f32", "mul.lo.s32|u32"
  const char *pattern;
  Handler fn;
  // operands, in order of the text: field of Inst and width. Fields: d e (destinations) a b c f (sources) are slots,
  // v is a vector of registers to vec[], A an address to a and imm, B one to b and imm2, i an immediate to imm, n one
  // to bytes, x a vector to the next elements of `more` (x: destination, y: source). "d|e" is two destinations with a
  // bar between, of which the second may be missing. Widths: 2 4 8 bytes, s f32, t f64, p predicate; "~": a register
  // may be wider or narrower. An operand in parentheses may be missing: then its slot holds zeros.
  const char *operands;
  Class cls = Class::Integer;
  uint8_t mode = 0;
  Flow flow = Flow::Plain;
};

struct Table {
  const Entry *entries;
  size_t count;
};

// Ops is one build of the handlers: for AVX2, or portable.
struct Ops {
  const char *name;
  std::vector<Table> tables;
  // load and store handlers: elements of `bytes` to or from registers of `width` bytes, `count` of them.
  Handler (*load)(Space, int bytes, int width, int count);
  Handler (*store)(Space, int bytes, int width, int count);
  Handler loadParam; // of a parameter whose place is known
  Handler fma;       // fma.rn.f32 alone and
  Handler fmaRun;    // a run of them
  Handler product;   // a run with the loads of its factors
};
namespace portable { Ops ops(); }
namespace avx2 { Ops ops(); }
const Ops &chosenOps(); // by the processor; CUDAEMU_SIMD=portable says otherwise

// Special registers that are filled in before a block runs.
enum class Special : uint8_t {
  TidX, TidY, TidZ, NtidX, NtidY, NtidZ, CtaidX, CtaidY, CtaidZ, NctaidX, NctaidY, NctaidZ, Lane, Warp, Warps, Sm, Sms,
  Grid, LanesEq, LanesLt, LanesLe, LanesGt, LanesGe, DynamicShared, TotalShared, Clock, Clock64, Timer,
};

struct Pool { // a slot with the same content in every thread, or one that the launch knows
  enum Kind : uint8_t { Immediate, OfLaunch, DynamicBase } kind;
  uint8_t width; // bytes: 0 predicate, 2, 4, 8
  Special special;
  uint64_t value;
  uint32_t slot;
};

struct BasicBlock {
  std::array<uint16_t, classes> warp{}, thread{}; // instructions; thread: without guarded ones
  std::array<uint32_t, classes> bytes{};          // of one lane, without guarded ones
};
struct Guard { // of a guarded instruction: lanes are counted as it runs
  Class cls;
  uint32_t bytes;
};

struct Program {
  std::string kernel;
  std::vector<Inst> code;
  std::vector<std::string> texts; // opcode of each instruction, for messages
  std::vector<Pool> pool;
  std::vector<BasicBlock> blocks; // by Inst::target of Flow::Next
  std::vector<Guard> guards;      // by Inst::target of guarded instructions that are no branches
  std::vector<std::vector<uint32_t>> tables; // of brx.idx
  std::deque<std::array<uint32_t, 16>> more;
  std::deque<std::vector<uint32_t>> runs; // plans of runs of fma: runs.h
  std::deque<Product> products;
  uint32_t registerBytes = 0;     // of a warp
  uint32_t spans = 0;             // instructions with a span of their own
  uint32_t reaches = 0;
  uint32_t dynamicBase = 0;       // where dynamic shared memory begins, behind the static
  bool asyncCopies = false;
};

} // namespace emu
