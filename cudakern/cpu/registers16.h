// How many sums the kernels for blocks of 16 maps keep in registers. One place for AVX-512 and its stand-in on AVX2,
// which proves something only as long as both run the same code.
#pragma once

namespace {
struct Registers {
  static constexpr int widest = 4, rows[] = {12, 12, 8, 6};
  static constexpr int tall_widest = 3, tall[] = {16, 8, 8};
};
} // namespace
