// Tokens of PTX text.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "memory.h"

namespace emu {

struct Token {
  enum Kind : uint8_t { Word, Number, Punctuation, Text, End };
  Kind kind = End;
  std::string_view text; // of the source, which must outlive the tokens
  uint32_t line = 0;     // from 1
  bool is(std::string_view s) const { return text == s && kind != Text; }
};

// lex cuts PTX text into tokens, the last of kind End. Words may hold . % $ _ (so "ld.global.f32", "%tid.x" and
// ".reg" are one word each); numbers are what begins with a digit ("0f3F800000", "42", "1.5e3").
Fault lex(std::string_view text, std::vector<Token> *out);

// number reads a literal: integers as two's complement, 0f and 0d as the bits they spell, decimals as f64's bits.
struct Literal {
  enum Kind : uint8_t { Integer, Single, DoubleBits, Decimal } kind = Integer;
  uint64_t bits = 0;
};
bool number(std::string_view text, Literal *out);

} // namespace emu
