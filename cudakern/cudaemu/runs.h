// Runs of fma.rn.f32 that follow each other in a basic block are one instruction to the dispatcher. The loader makes a
// plan of each: which of them are rows of a block, the outer product of a column of factors a and eight factors b that
// are the same in every row.
//
// A plan is a list of words, Inst::more, ended by 0. A part of it is
//   n | runLoose, n times (d, a, b, c)                   n fmas that are in no block, or
//   n, b0 ... b7, n times (a, d0, c0, ... d7, c7)        n rows of 8: dk = a * bk + ck
// with registers as byte offsets in the warp's file.
#pragma once
#include <cstdint>
#include <vector>

#include "machine.h"

namespace emu {

constexpr uint32_t runColumns = 8;
constexpr uint32_t runLoose = 1u << 31;

// planOf makes the plan of n fmas, in their order: what it says to do gives the bits that they give one by one.
std::vector<uint32_t> planOf(const Inst *fmas, uint32_t n);

} // namespace emu
