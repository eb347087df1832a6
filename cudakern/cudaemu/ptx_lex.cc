#include "ptx_lex.h"

#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

namespace emu {

namespace {

bool wordStart(char c) { return isalpha((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.'; }
bool wordPart(char c) { return wordStart(c) || isdigit((unsigned char)c); }

} // namespace

Fault lex(std::string_view text, std::vector<Token> *out) {
  uint32_t line = 1;
  size_t at = 0;
  const auto fail = [&](const char *what) {
    return Fault{InvalidPtx, "PTX line " + std::to_string(line) + ": " + what};
  };
  while (at < text.size()) {
    const char c = text[at];
    if (c == '\0') break; // images come as C strings
    if (c == '\n') line++;
    if (isspace((unsigned char)c)) {
      at++;
      continue;
    }
    if (text.compare(at, 2, "//") == 0) {
      at = std::min(text.find('\n', at), text.size());
      continue;
    }
    if (text.compare(at, 2, "/*") == 0) {
      const size_t end = text.find("*/", at + 2);
      if (end == text.npos) return fail("comment without an end");
      for (size_t i = at; i < end; i++) line += text[i] == '\n';
      at = end + 2;
      continue;
    }
    Token t;
    t.line = line;
    size_t end = at + 1;
    if (c == '"') {
      while (end < text.size() && text[end] != '"' && text[end] != '\n') end++;
      if (end == text.size() || text[end] == '\n') return fail("string without an end");
      t.kind = Token::Text;
      t.text = text.substr(at + 1, end - at - 1);
      at = end + 1;
    } else if (isdigit((unsigned char)c)) {
      while (end < text.size() &&
             (isalnum((unsigned char)text[end]) || text[end] == '.' ||
                 ((text[end] == '+' || text[end] == '-') && tolower(text[end - 1]) == 'e' && text[at + 1] != 'x' &&
                     text[at + 1] != 'f' && text[at + 1] != 'd' && text[at + 1] != 'F' && text[at + 1] != 'D')))
        end++;
      t.kind = Token::Number;
      t.text = text.substr(at, end - at);
      at = end;
    } else if (wordStart(c)) {
      // "::" belongs to names of modifiers (".shared::cta")
      while (end < text.size() && (wordPart(text[end]) || text.compare(end, 2, "::") == 0))
        end += text[end] == ':' ? 2 : 1;
      t.kind = Token::Word;
      t.text = text.substr(at, end - at);
      at = end;
    } else {
      if (!strchr("{}[]()<>,;:+-|!@=*&", c)) return fail("a character that no PTX has");
      t.kind = Token::Punctuation;
      t.text = text.substr(at, 1);
      at = end;
    }
    out->push_back(t);
  }
  Token end;
  end.line = line;
  out->push_back(end);
  return {};
}

bool number(std::string_view text, Literal *out) {
  const std::string s(text);
  if (s.size() > 2 && s[0] == '0' && (s[1] == 'f' || s[1] == 'F' || s[1] == 'd' || s[1] == 'D')) {
    const bool single = s[1] == 'f' || s[1] == 'F';
    if (s.size() != (single ? 10u : 18u)) return false;
    char *end;
    out->bits = strtoull(s.c_str() + 2, &end, 16);
    out->kind = single ? Literal::Single : Literal::DoubleBits;
    return !*end;
  }
  const bool hex = s.size() > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
  char *end;
  if (!hex && s.find_first_of(".eE") != s.npos) {
    const double d = strtod(s.c_str(), &end);
    memcpy(&out->bits, &d, 8);
    out->kind = Literal::Decimal;
    return !*end;
  }
  std::string digits = s;
  if (!digits.empty() && digits.back() == 'U') digits.pop_back();
  errno = 0;
  const bool binary = digits.size() > 2 && digits[0] == '0' && (digits[1] == 'b' || digits[1] == 'B');
  out->bits = binary ? strtoull(digits.c_str() + 2, &end, 2) : strtoull(digits.c_str(), &end, 0);
  out->kind = Literal::Integer;
  return !*end && errno == 0;
}

} // namespace emu
