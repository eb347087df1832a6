// Runs of fma.rn.f32 that follow each other in a basic block are one instruction to the dispatcher. The loader brings
// them together (it moves loads from shared memory in front of them) and makes a plan of each, which names what a
// product of matrices is made of: steps, in each of which rows of the same eight factors b are multiplied by one factor
// a a row, and all is added to what the step before has left.
//
// A plan is a list of words, Inst::more, ended by 0. A part of it is
//   n | runLoose, n times (d, a, b, c)                         n fmas that are in no step, or
//   rows | steps << 16, rows * 8 times (d, c), and for each step b0 ... b7 and a for each row
// with registers as byte offsets in the warp's file: d[r][k] = a[last][r] * b[last][k] + ... + c[r][k].
#pragma once
#include <cstdint>
#include <vector>

#include "machine.h"

namespace emu {

constexpr uint32_t runColumns = 8;
constexpr uint32_t runLoose = 1u << 31;

// planOf makes the plan of n fmas, in their order: what it says to do gives the bits that they give one by one.
// next[i] is the fma that takes the i-th one's result as c, if nobody else ever does, else noNext. Numbers in next
// count from the first fma.
constexpr uint32_t noNext = ~0u;
std::vector<uint32_t> planOf(const Inst *fmas, uint32_t n, const std::vector<uint32_t> &next);


// Product is a run all of whose factors are loaded by the instructions right in front of it, ld.shared.v4, and go
// nowhere else. Loads and run are one instruction to the dispatcher then (Inst::product of the first): it fetches
// factors and leaves their registers alone. The sums are those of the run's plan, which has one part.
struct Product {
  static constexpr uint32_t mostRows = 8, mostSteps = 8, mostAddresses = 4;
  struct Address {
    uint32_t load;           // the first load from this register, counted from the product's first instruction
    bool ofA;                // a's are loaded from it, else b's
    uint64_t low, high, bits; // of the loads' offsets: lowest, highest, all or-ed
  };
  struct Quad { // where four factors are, words behind each other
    uint32_t address;        // index of addresses
    int64_t offset;
  };
  Handler load = nullptr;    // of one load
  uint32_t loads = 0, rows = 0, steps = 0;
  std::vector<Address> addresses;
  std::vector<Quad> a, b;    // by step: rows / 4 of them, runColumns / 4 of them
  const uint32_t *sums = nullptr; // rows * runColumns times (d, c), in the plan
};

// productOf says whether `loads` loads and the run behind them, which has this plan, are a product.
bool productOf(const Inst *first, uint32_t loads, const std::vector<uint32_t> &plan, Product *);

} // namespace emu
