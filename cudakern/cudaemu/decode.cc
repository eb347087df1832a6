// Statements to instructions: which line of the tables a statement is, and where its operands are.
#include "decode.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "loader.h"

namespace emu {

// Field is one operand of an Entry.
struct Field {
  char field = 0, width = 0;
  char second = 0;       // field behind the bar
  int count = 0;         // of x and y
  bool resize = false, optional = false;
};

namespace {

struct Element { // of a pattern
  std::vector<std::string> any;
  bool optional = false;
};
struct Pattern {
  const Entry *entry;
  std::vector<Element> elements;
  std::vector<Field> fields;
};
using Patterns = std::map<std::string, std::vector<Pattern>, std::less<>>; // by opcode

std::vector<std::string> cut(const std::string &s, char at) {
  std::vector<std::string> out(1);
  for (char c : s) {
    if (c == at) out.emplace_back();
    else out.back() += c;
  }
  return out;
}

std::vector<Field> fieldsOf(const char *text) {
  std::vector<Field> out;
  if (!*text) return out;
  for (std::string word : cut(text, ' ')) {
    Field f;
    if (word[0] == '(') {
      f.optional = true;
      word = word.substr(1, word.size() - 2);
    }
    const std::vector<std::string> both = cut(word, '|');
    const std::string &w = both[0];
    f.field = w[0];
    if (w.size() > 1) f.width = w[1];
    if (w.size() > 2 && w[2] == '~') f.resize = true;
    else if (w.size() > 2) f.count = w[2] - '0';
    if (both.size() > 1) f.second = both[1][0];
    out.push_back(f);
  }
  return out;
}

Pattern patternOf(const Entry &entry) {
  Pattern p;
  p.entry = &entry;
  p.fields = fieldsOf(entry.operands);
  const std::vector<std::string> words = cut(entry.pattern, '.');
  for (size_t i = 1; i < words.size(); i++) {
    Element e;
    e.optional = words[i][0] == '?';
    e.any = cut(words[i].substr(e.optional), '|');
    p.elements.push_back(e);
  }
  return p;
}

Patterns read(const Ops &ops) {
  Patterns all;
  for (const Table &t : ops.tables)
    for (size_t k = 0; k < t.count; k++) {
      const Entry &entry = t.entries[k];
      for (const std::string &op : cut(cut(entry.pattern, '.')[0], '|')) all[op].push_back(patternOf(entry));
    }
  return all;
}

const Patterns &patterns() {
  static const Patterns all = read(chosenOps());
  return all;
}

bool matches(const Pattern &p, const std::vector<std::string_view> &mods) {
  size_t at = 0;
  for (const Element &e : p.elements) {
    const bool here = at < mods.size() && std::find(e.any.begin(), e.any.end(), mods[at]) != e.any.end();
    if (here) at++;
    else if (!e.optional) return false;
  }
  return at == mods.size();
}

bool fits(const Pattern &p, const std::vector<Operand> &operands) {
  size_t needed = 0;
  for (const Field &f : p.fields) needed += !f.optional;
  if (operands.size() < needed || operands.size() > p.fields.size()) return false;
  for (size_t k = 0; k < operands.size(); k++) {
    const char f = p.fields[k].field;
    const bool vector = f == 'v' || f == 'x' || f == 'y', address = f == 'A' || f == 'B';
    if (vector != (operands[k].kind == Operand::Vector)) return false;
    if (address != (operands[k].kind == Operand::Address)) return false;
    if ((f == 'i' || f == 'n') && operands[k].kind != Operand::Immediate) return false;
  }
  return true;
}

const Pattern *findExact(const std::string &text) {
  const std::vector<std::string> words = cut(text, '.');
  std::vector<std::string_view> mods(words.begin() + 1, words.end());
  const auto it = patterns().find(words[0]);
  if (it != patterns().end())
    for (const Pattern &p : it->second)
      if (matches(p, mods)) return &p;
  return nullptr;
}

uint8_t bytesOf(char width) {
  switch (width) {
  case 'p': return 0;
  case '2': return 2;
  case '4':
  case 's': return 4;
  default: return 8;
  }
}

uint32_t offsetOf(char field) {
  switch (field) {
  case 'd': return offsetof(Inst, d);
  case 'e': return offsetof(Inst, e);
  case 'a': return offsetof(Inst, a);
  case 'b': return offsetof(Inst, b);
  case 'c': return offsetof(Inst, c);
  default: return offsetof(Inst, f);
  }
}
bool isDestination(char field) { return field == 'd' || field == 'e'; }

struct Named {
  const char *name;
  Special what;
  uint8_t width;
};
constexpr Named specials[] = {{"%tid.x", Special::TidX, 4}, {"%tid.y", Special::TidY, 4}, {"%tid.z", Special::TidZ, 4},
    {"%ntid.x", Special::NtidX, 4}, {"%ntid.y", Special::NtidY, 4}, {"%ntid.z", Special::NtidZ, 4},
    {"%ctaid.x", Special::CtaidX, 4}, {"%ctaid.y", Special::CtaidY, 4}, {"%ctaid.z", Special::CtaidZ, 4},
    {"%nctaid.x", Special::NctaidX, 4}, {"%nctaid.y", Special::NctaidY, 4}, {"%nctaid.z", Special::NctaidZ, 4},
    {"%laneid", Special::Lane, 4}, {"%warpid", Special::Warp, 4}, {"%nwarpid", Special::Warps, 4},
    {"%smid", Special::Sm, 4}, {"%nsmid", Special::Sms, 4}, {"%gridid", Special::Grid, 8},
    {"%lanemask_eq", Special::LanesEq, 4}, {"%lanemask_lt", Special::LanesLt, 4},
    {"%lanemask_le", Special::LanesLe, 4}, {"%lanemask_gt", Special::LanesGt, 4},
    {"%lanemask_ge", Special::LanesGe, 4}, {"%dynamic_smem_size", Special::DynamicShared, 4},
    {"%total_smem_size", Special::TotalShared, 4}, {"%clock", Special::Clock, 4}, {"%clock64", Special::Clock64, 8},
    {"%globaltimer", Special::Timer, 8}};

Ops choose() {
  const char *wish = getenv("CUDAEMU_SIMD");
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool able = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (able && !(wish && !strcmp(wish, "portable"))) return avx2::ops();
#endif
  (void)wish;
  return portable::ops();
}

} // namespace

const Ops &chosenOps() {
  static const Ops ops = choose();
  return ops;
}
const char *simdName() { return chosenOps().name; }

bool matchesPattern(const char *pattern, const std::string &opcode) {
  const std::vector<std::string> words = cut(opcode, '.');
  const Entry entry{pattern, nullptr, ""};
  const Pattern p = patternOf(entry);
  const std::vector<std::string> ops = cut(cut(pattern, '.')[0], '|');
  return std::find(ops.begin(), ops.end(), words[0]) != ops.end() &&
         matches(p, std::vector<std::string_view>(words.begin() + 1, words.end()));
}

Inst Loader::start(const Statement &s) const {
  Inst i;
  i.line = s.line;
  return i;
}

void Loader::emit(Inst i, std::string_view text) {
  const uint32_t index = (uint32_t)program->code.size();
  if (index > (1u << 24)) fail("kernel is too long");
  for (Occurrence o : pending) {
    o.inst = index;
    occurrences.push_back(o);
  }
  pending.clear();
  program->code.push_back(i);
  program->texts.emplace_back(text);
}

void Loader::join() {
  if (!program->code.empty() && program->code.back().flow == Flow::Next) return;
  Inst i;
  i.flow = Flow::Next;
  i.line = peek().line;
  pending.clear();
  emit(i, "");
}

uint32_t Loader::temporary(uint8_t width) {
  regs.push_back({width});
  return (uint32_t)regs.size() - 1;
}
uint32_t Loader::pooled(Pool p) {
  const auto key = std::make_tuple((int)p.kind * 256 + (int)p.special, (int)p.width, p.value);
  const auto it = pools.find(key);
  if (it != pools.end()) return it->second;
  regs.push_back({p.width, (int32_t)program->pool.size()});
  program->pool.push_back(p);
  return pools[key] = (uint32_t)regs.size() - 1;
}
uint32_t Loader::immediate(uint8_t width, uint64_t value) {
  if (width == 2) value &= 0xFFFF;
  if (width == 4) value &= 0xFFFFFFFF;
  return pooled({Pool::Immediate, width, Special::TidX, value, 0});
}

void Loader::helper(const std::string &pattern, uint32_t d, uint32_t a, const Statement &s, bool guarded) {
  const Pattern *p = findExact(pattern);
  if (!p) throw Error{s.line, std::string(s.text) + ": operand of a width that is not supported (" + pattern + ")"};
  std::vector<Occurrence> kept;
  kept.swap(pending);
  Inst i = start(s);
  i.fn = p->entry->fn;
  i.cls = p->entry->cls;
  if (guarded && s.guarded) {
    i.flow = Flow::Guarded;
    i.negated = s.guardNegated;
    use(offsetof(Inst, pred), s.guard, false);
  }
  if (a) use(offsetof(Inst, a), a, false);
  use(offsetof(Inst, d), d, true);
  emit(i, pattern);
  pending.swap(kept);
}

uint32_t Loader::resized(uint32_t reg, uint8_t width, bool sign, const Statement &s) {
  const uint8_t from = regs[reg].width;
  if (from == width) return reg;
  const uint32_t t = temporary(width);
  const std::string kind = sign && from < width ? "s" : "u";
  helper("widen." + kind + std::to_string(8 * width) + "." + kind + std::to_string(8 * from), t, reg, s, false);
  return t;
}

uint32_t Loader::special(std::string_view name, uint8_t width, const Statement &s) {
  for (const Named &n : specials) {
    if (name != n.name) continue;
    uint32_t r;
    if (n.what == Special::Clock || n.what == Special::Clock64 || n.what == Special::Timer) {
      r = temporary(n.width);
      helper(n.width == 4 ? "clock.u32" : "clock.u64", r, 0, s, false);
    } else {
      r = pooled({Pool::OfLaunch, n.width, n.what, 0, 0});
    }
    return width ? resized(r, width, false, s) : r;
  }
  throw Error{s.line, "\"" + std::string(name) + "\" is not declared, and no special register that is supported"};
}

uint32_t Loader::symbolAddress(const Symbol &symbol, int64_t offset, uint8_t width) {
  uint64_t value = symbol.value;
  switch (symbol.kind) {
  case Symbol::DynamicShared:
    kernel->dynamicShared = true;
    sharedAlign = std::max(sharedAlign, symbol.align);
    return pooled({Pool::DynamicBase, width, Special::TidX, (uint64_t)offset, 0});
  case Symbol::ModuleShared: {
    const auto it = sharedPlaces.find(&symbol);
    sharedAlign = std::max(sharedAlign, symbol.align);
    value =
        it != sharedPlaces.end() ? it->second : sharedPlaces[&symbol] = frame(&sharedUsed, symbol.size, symbol.align);
    break;
  }
  default: break;
  }
  return immediate(width, value + (uint64_t)offset);
}

// source is the register (or slot of the pool) that an operand is read from.
uint32_t Loader::source(const Operand &o, char width, bool resize, const Statement &s) {
  const uint8_t bytes = bytesOf(width);
  const auto bad = [&](const std::string &what) {
    throw Error{s.line, std::string(s.text) + ": operand \"" + std::string(o.text) + "\" " + what};
  };
  switch (o.kind) {
  case Operand::Register: {
    if (o.second) bad("is two registers where one is read");
    uint32_t r = o.reg;
    if (regs[r].width != bytes) {
      if (!resize || !bytes || !regs[r].width)
        bad("has " + std::to_string(8 * regs[r].width) + " bits where " + std::to_string(8 * bytes) + " are needed");
      r = resized(r, bytes, false, s);
    }
    if (o.negated) {
      if (bytes) bad("is no predicate, so it cannot be negated");
      const uint32_t t = temporary(0);
      helper("not.pred", t, r, s, false);
      r = t;
    }
    return r;
  }
  case Operand::Immediate: {
    uint64_t v = o.literal.bits;
    double d = 0;
    if (o.literal.kind == Literal::Single) {
      float f;
      const uint32_t b = (uint32_t)v;
      memcpy(&f, &b, 4);
      d = f;
    } else {
      memcpy(&d, &v, 8);
    }
    if (width == 'p') v = v ? ~0ull : 0;
    else if (width == 't' && o.literal.kind == Literal::Single) memcpy(&v, &d, 8);
    else if (bytes == 4 && (o.literal.kind == Literal::Decimal || o.literal.kind == Literal::DoubleBits)) {
      const float f = (float)d;
      uint32_t b;
      memcpy(&b, &f, 4);
      v = b;
    }
    return immediate(bytes, v);
  }
  case Operand::Name:
    if (!o.symbol) return special(o.text, resize || bytes == 8 || bytes == 4 ? bytes : 0, s);
    if (o.symbol->kind == Symbol::Function || o.symbol->kind == Symbol::Register) bad("is no variable");
    if (bytes < 4) bad("is an address, which does not fit");
    return symbolAddress(*o.symbol, o.offset, bytes);
  default: bad("is not understood here");
  }
  return 0;
}

// address is the 64-bit register of an address operand; *offset is what is to be added.
uint32_t Loader::address(const Operand &o, const Statement &s, int64_t *offset) {
  *offset = o.offset;
  if (o.based) {
    if (regs[o.reg].width != 8 && regs[o.reg].width != 4)
      throw Error{s.line, "\"" + std::string(o.text) + "\" is no address"};
    return resized(o.reg, 8, false, s);
  }
  if (!o.symbol) return immediate(8, 0);
  *offset = 0;
  return symbolAddress(*o.symbol, o.offset, 8);
}

static Space spaceOf(const std::vector<std::string_view> &mods) {
  for (std::string_view m : mods) {
    if (m == "global") return Space::Global;
    if (m == "shared" || m == "shared::cta") return Space::Shared;
    if (m == "local") return Space::Local;
    if (m == "const") return Space::Const;
    if (m == "param" || m == "param::entry" || m == "param::func") return Space::Param;
  }
  return Space::Generic;
}

void Loader::bind(const Entry &entry, const std::vector<Field> &fields, const Statement &s) {
  Inst i = start(s);
  i.fn = entry.fn;
  i.cls = entry.cls;
  i.mode = entry.mode;
  i.flow = entry.flow;
  i.space = spaceOf(s.mods);
  if (entry.cls == Class::Atomic) i.bytes = entry.mode;
  struct Widened {
    uint32_t to, from;
    bool sign;
  };
  std::vector<Widened> after;
  std::vector<Occurrence> uses; // kept apart: helpers are emitted in between
  const auto at = [&](uint32_t field, uint32_t reg, bool write) {
    uses.push_back({0, reg, (uint16_t)field, write, nullptr});
  };
  bool member = false;
  int more = 0;
  if (std::any_of(fields.begin(), fields.end(), [](const Field &f) { return f.field == 'x'; })) {
    program->more.emplace_back();
    i.more = program->more.back().data();
  }
  const auto bad = [&](const Operand &o, const std::string &what) {
    throw Error{s.line, std::string(s.text) + ": operand \"" + std::string(o.text) + "\" " + what};
  };
  const auto destination = [&](const Operand &o, char width) {
    if (o.kind == Operand::Sink) return 0u;
    if (o.kind != Operand::Register) bad(o, "is no register");
    if (regs[o.reg].width != bytesOf(width))
      bad(o, "has " + std::to_string(8 * regs[o.reg].width) + " bits where " + std::to_string(8 * bytesOf(width)) +
                 " are needed");
    return o.reg;
  };
  for (size_t k = 0; k < fields.size(); k++) {
    const Field &f = fields[k];
    if (k >= s.operands.size()) {
      at(offsetOf(f.field), immediate(bytesOf(f.width), 0), false);
      continue;
    }
    const Operand &o = s.operands[k];
    switch (f.field) {
    case 'A': at(offsetof(Inst, a), address(o, s, &i.imm), false); break;
    case 'B': at(offsetof(Inst, b), address(o, s, &i.imm2), false); break;
    case 'i': i.imm = (int64_t)o.literal.bits; break;
    case 'n':
      if (o.literal.bits != 4 && o.literal.bits != 8 && o.literal.bits != 16) bad(o, "is neither 4 nor 8 nor 16");
      i.bytes = (uint8_t)o.literal.bits;
      break;
    case 'v': {
      const bool write = k == 0;
      if (o.parts.size() != 2) bad(o, "has not two elements");
      for (uint32_t n = 0; n < 2; n++)
        at(offsetof(Inst, vec) + 4 * n,
           write ? destination(o.parts[n], f.width) : source(o.parts[n], f.width, false, s), write);
      break;
    }
    case 'x':
    case 'y':
      if ((int)o.parts.size() != f.count) bad(o, "has not " + std::to_string(f.count) + " elements");
      for (const Operand &p : o.parts) {
        const bool write = f.field == 'x';
        const uint32_t reg = write ? destination(p, f.width) : source(p, f.width, false, s);
        uses.push_back({0, reg, 0, write, &i.more[more++]});
      }
      break;
    default:
      member = member || f.field == 'f';
      if (!isDestination(f.field)) {
        at(offsetOf(f.field), source(o, f.width, f.resize, s), false);
        break;
      }
      uint32_t reg = 0;
      if (f.resize && o.kind == Operand::Register && regs[o.reg].width != bytesOf(f.width) && regs[o.reg].width) {
        reg = temporary(bytesOf(f.width));
        after.push_back({o.reg, reg, entry.mode != 0});
      } else {
        reg = destination(o, f.width);
      }
      at(offsetOf(f.field), reg, true);
      if (f.second) {
        if (o.second && regs[o.second].width) bad(o, "has no predicate behind the bar");
        at(offsetOf(f.second), o.second, true);
      }
    }
  }
  if (!member && (i.flow == Flow::Converge || i.flow == Flow::SyncWarp))
    at(offsetof(Inst, f), immediate(4, ~0u), false);
  const bool counted = std::any_of(fields.begin(), fields.end(), [](const Field &f) { return f.field == 'b'; });
  if ((i.flow == Flow::Barrier || i.flow == Flow::Arrive) && !counted) at(offsetof(Inst, b), immediate(4, 0), false);
  const bool waits = i.flow == Flow::Converge || i.flow == Flow::SyncWarp || i.flow == Flow::Barrier ||
                     i.flow == Flow::Arrive || i.flow == Flow::Exit || i.flow == Flow::Trap;
  if (waits && i.flow != Flow::Exit && i.flow != Flow::Trap) join();
  pending = uses;
  if (s.guarded) {
    use(offsetof(Inst, pred), s.guard, false);
    i.negated = s.guardNegated;
    if (i.flow == Flow::Plain) i.flow = Flow::Guarded;
  }
  if (i.cls == Class::AsyncCopy) program->asyncCopies = true;
  if (i.cls == Class::Atomic || i.cls == Class::AsyncCopy) i.cache = program->spans++;
  if (i.cls == Class::Atomic) i.write = true;
  emit(i, s.text);
  for (const Widened &w : after) {
    const uint8_t to = regs[w.to].width, from = regs[w.from].width;
    const std::string kind = w.sign && from < to ? "s" : "u";
    helper("widen." + kind + std::to_string(8 * to) + "." + kind + std::to_string(8 * from), w.to, w.from, s, true);
  }
  if (waits) join();
}

void Loader::decode(const Statement &s) {
  if (s.op == "ld" || s.op == "ldu" || s.op == "st") return decodeMemory(s);
  if (s.op == "bra" || s.op == "brx") return decodeBranch(s);
  if (s.op == "call") return call(s);
  if (s.op == "ret" && !returnLabel.empty()) {
    Inst i = start(s);
    i.flow = Flow::Branch;
    i.cls = Class::Control;
    i.negated = s.guardNegated;
    if (s.guarded) use(offsetof(Inst, pred), s.guard, false);
    branches.push_back({(uint32_t)program->code.size(), returnLabel});
    emit(i, s.text);
    return join();
  }
  const auto it = patterns().find(s.op);
  const bool known = it != patterns().end();
  bool form = false;
  if (known)
    for (const Pattern &p : it->second) {
      if (!matches(p, s.mods)) continue;
      form = true;
      if (fits(p, s.operands)) return bind(*p.entry, p.fields, s);
    }
  throw Error{s.line, "instruction " + std::string(s.text) +
                          (form    ? " has operands that are not supported"
                           : known ? " is not supported (other forms of " + std::string(s.op) + " are)"
                                   : " is not supported")};
}

void Loader::decodeBranch(const Statement &s) {
  Inst i = start(s);
  i.cls = Class::Control;
  i.negated = s.guardNegated;
  if (s.op == "bra") {
    if (s.operands.size() != 1 || s.operands[0].kind != Operand::Name)
      throw Error{s.line, std::string(s.text) + ": the target is no label"};
    i.flow = Flow::Branch;
    if (s.guarded) use(offsetof(Inst, pred), s.guard, false);
    branches.push_back({(uint32_t)program->code.size(), prefix + std::string(s.operands[0].text)});
  } else {
    if (s.operands.size() != 2 || s.operands[1].kind != Operand::Name)
      throw Error{s.line, std::string(s.text) + ": needs an index and a label of targets"};
    i.flow = Flow::BranchTable;
    const auto it = branchTargets.find(prefix + std::string(s.operands[1].text));
    if (it == branchTargets.end())
      throw Error{s.line, "no .branchtargets \"" + std::string(s.operands[1].text) + "\" above"};
    const uint32_t index = source(s.operands[0], '4', false, s);
    use(offsetof(Inst, a), index, false);
    if (s.guarded) use(offsetof(Inst, pred), s.guard, false);
    i.target = (uint32_t)program->tables.size();
    program->tables.emplace_back();
    switches.push_back({i.target, it->second});
  }
  emit(i, s.text);
  join();
}

// ld and st: the type is the last modifier; of the others only the space and .v2 or .v4 matter here. Caches, volatile
// and scopes do not: blocks see each other's memory at once.
void Loader::decodeMemory(const Statement &s) {
  static const std::set<std::string_view> ignored = {"weak", "volatile", "relaxed", "acquire", "release", "mmio", "cta",
      "cluster", "gpu", "sys", "global", "shared", "shared::cta", "local", "const", "param", "param::entry",
      "param::func", "nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1::evict_normal", "L1::evict_unchanged",
      "L1::evict_first", "L1::evict_last", "L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"};
  const bool write = s.op == "st";
  Inst i = start(s);
  if (s.mods.empty() || s.operands.size() != 2) throw Error{s.line, std::string(s.text) + " is not understood"};
  for (size_t k = 0; k + 1 < s.mods.size(); k++) {
    if (s.mods[k] == "v2") i.count = 2;
    else if (s.mods[k] == "v4") i.count = 4;
    else if (!ignored.count(s.mods[k]))
      throw Error{s.line, std::string(s.text) + ": \"" + std::string(s.mods[k]) + "\" is not supported"};
  }
  const std::string_view type = s.mods.back();
  i.bytes = (uint8_t)widthOf(type);
  if (!i.bytes || i.bytes * i.count > 16) throw Error{s.line, std::string(s.text) + ": is not supported"};
  i.space = spaceOf(s.mods);
  i.write = write;
  const Operand &where = s.operands[write ? 0 : 1], &what = s.operands[write ? 1 : 0];
  if (where.kind != Operand::Address) throw Error{s.line, std::string(s.text) + ": no address in brackets"};
  if (where.symbol && where.symbol->kind == Symbol::Local) i.space = Space::Local; // arguments of calls
  const std::vector<Operand> elements = what.kind == Operand::Vector ? what.parts : std::vector<Operand>{what};
  if (elements.size() != i.count) throw Error{s.line, std::string(s.text) + ": wrong number of elements"};
  const uint8_t natural = std::max<uint8_t>(i.bytes, 2);
  uint8_t width = natural; // of the registers
  for (const Operand &o : elements)
    if (o.kind == Operand::Register) width = std::max(width, regs[o.reg].width);
  std::vector<Occurrence> uses;
  const char widthName = width == 2 ? '2' : width == 4 ? (type == "f32" ? 's' : '4') : (type == "f64" ? 't' : '8');
  for (uint32_t k = 0; k < i.count; k++) {
    const Operand &o = elements[k];
    uint32_t reg = 0;
    if (write) reg = source(o, widthName, true, s);
    else if (o.kind == Operand::Register && regs[o.reg].width == width) reg = o.reg;
    else if (o.kind != Operand::Sink)
      throw Error{s.line,
                  std::string(s.text) + ": operand \"" + std::string(o.text) + "\" is no register it can load to"};
    uses.push_back({0, reg, (uint16_t)(offsetof(Inst, vec) + 4 * k), !write, nullptr});
  }
  const bool sign = !write && type[0] == 's' && width > i.bytes;
  i.mode = (uint8_t)(width | (sign ? 0x80 : 0));
  const bool direct = i.space == Space::Param && !where.based && where.symbol && where.symbol->kind == Symbol::Param;
  if (direct) {
    if (write) throw Error{s.line, "parameters of a kernel cannot be written"};
    i.imm = (int64_t)where.symbol->value + where.offset;
    if (where.offset < 0 || (uint64_t)where.offset + i.bytes * i.count > where.symbol->size)
      throw Error{s.line, std::string(s.text) + ": beyond the parameter"};
    i.fn = ops->loadParam;
    i.cls = Class::Move;
  } else {
    uses.push_back({0, address(where, s, &i.imm), offsetof(Inst, a), false, nullptr});
    i.fn = write ? ops->store(i.space, i.bytes, width, i.count) : ops->load(i.space, i.bytes, width, i.count);
    switch (i.space) {
    case Space::Shared: i.cls = write ? Class::StoreShared : Class::LoadShared; break;
    case Space::Local: i.cls = Class::Local; break;
    case Space::Const: i.cls = Class::Constant; break;
    case Space::Param: i.cls = Class::Move; break;
    default: i.cls = write ? Class::StoreGlobal : Class::LoadGlobal;
    }
    i.cache = program->spans++;
  }
  pending = uses;
  if (s.guarded) {
    use(offsetof(Inst, pred), s.guard, false);
    i.negated = s.guardNegated;
    i.flow = Flow::Guarded;
  }
  emit(i, s.text);
}

} // namespace emu
