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

} // namespace emu
