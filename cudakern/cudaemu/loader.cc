#include "loader.h"

#include <algorithm>
#include <cstring>

namespace emu {

void Loader::fail(const std::string &what) const { throw Error{peek().line, what}; }

bool Loader::accept(std::string_view s) {
  if (!peek().is(s)) return false;
  next();
  return true;
}
void Loader::expect(std::string_view s) {
  if (!accept(s)) fail("\"" + std::string(s) + "\" is missing before \"" + std::string(peek().text) + "\"");
}
uint64_t Loader::integer() {
  Literal l;
  if (peek().kind != Token::Number || !number(peek().text, &l) || l.kind != Literal::Integer)
    fail("\"" + std::string(peek().text) + "\" where a number is needed");
  next();
  return l.bits;
}
int64_t Loader::signedInteger() {
  if (accept("+")) return signedInteger();
  if (accept("-")) return (int64_t)(0 - (uint64_t)signedInteger());
  return (int64_t)integer();
}
void Loader::skipStatement() {
  while (peek().kind != Token::End && !accept(";")) next();
}
void Loader::skipBraces() { // from "{" to its "}"
  int depth = 0;
  do {
    if (peek().kind == Token::End) fail("\"}\" is missing");
    depth += peek().is("{") - peek().is("}");
    next();
  } while (depth);
}

Fault Loader::load(Module *out) {
  module = out;
  ops = &chosenOps();
  const Fault bad = lex(whole, &tokens);
  if (tokens.empty() || !tokens[0].is(".version")) return {InvalidImage, "no PTX: it does not begin with .version"};
  if (bad) return bad;
  try {
    while (peek().kind != Token::End) toplevel();
  } catch (const Error &e) {
    return {InvalidPtx, "PTX line " + std::to_string(e.line) + ": " + e.what};
  } catch (const Fault &f) { // of placing a variable
    return f;
  }
  return {};
}

void Loader::toplevel() {
  bool external = false;
  for (;;) {
    const Token &t = peek();
    if (accept(".version")) {
      const std::string v(next().text); // "6.3" is one number
      module->ptxVersion = (int)(atof(v.c_str()) * 10 + 0.5);
      return;
    }
    if (accept(".target")) {
      do {
        const std::string_view name = next().text;
        if (name.substr(0, 3) == "sm_") module->smTarget = atoi(std::string(name.substr(3)).c_str());
      } while (accept(","));
      return;
    }
    if (accept(".address_size")) {
      if (integer() != 64) fail("only 64-bit addresses are supported");
      return;
    }
    if (t.is(".visible") || t.is(".weak") || t.is(".common")) {
      next();
      continue;
    }
    if (accept(".extern")) {
      external = true;
      continue;
    }
    if (t.is(".file") || t.is(".alias") || t.is(".pragma")) { // .file has no semicolon
      const uint32_t line = t.line;
      while (peek().line == line && peek().kind != Token::End) next();
      return;
    }
    if (accept(".section")) {
      while (!peek().is("{") && peek().kind != Token::End) next();
      return skipBraces();
    }
    if (accept(".entry")) return header(true, external);
    if (accept(".func")) return header(false, external);
    if (accept(".global")) return globalVariable(false, external);
    if (accept(".const")) return globalVariable(true, external);
    if (accept(".shared")) {
      const Variable v = variable();
      expect(";");
      Symbol s{external ? Symbol::DynamicShared : Symbol::ModuleShared};
      s.size = v.size;
      s.align = v.align;
      moduleScope.names[v.name] = s;
      return;
    }
    if (accept(";")) return;
    fail("directive \"" + std::string(t.text) + "\" is not supported here");
  }
}

uint32_t Loader::widthOf(std::string_view type) const {
  if (!type.empty() && type[0] == '.') type.remove_prefix(1);
  static const std::map<std::string_view, uint32_t> widths = {{"pred", 0}, {"b8", 1}, {"u8", 1}, {"s8", 1}, {"b16", 2},
      {"u16", 2}, {"s16", 2}, {"f16", 2}, {"bf16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4}, {"f32", 4}, {"f16x2", 4},
      {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8}};
  const auto it = widths.find(type);
  if (it == widths.end()) fail("type \"" + std::string(type) + "\" is not supported");
  return it->second;
}

// variable reads what follows the space: .align 16 .b8 name[64], .u32 x, .u64 .ptr .global .align 4 name
Loader::Variable Loader::variable() {
  Variable v;
  uint64_t align = 0;
  for (;;) {
    if (accept(".align")) {
      const uint64_t a = integer();
      if (v.type.empty()) align = a; // behind .ptr it is what the pointer points to
    } else if (accept(".ptr")) {
      while (peek().is(".global") || peek().is(".shared") || peek().is(".const") || peek().is(".local")) next();
    } else if (accept(".attribute")) {
      while (!accept(")")) next();
    } else if (peek().kind == Token::Word && peek().text[0] == '.') {
      v.type = next().text;
    } else {
      break;
    }
  }
  const uint32_t width = widthOf(v.type);
  if (peek().kind != Token::Word) fail("a name is missing");
  v.name = next().text;
  v.align = align ? align : std::max(1u, width);
  if (v.align & (v.align - 1)) fail("alignment is no power of two");
  while (accept("[")) {
    v.array = true;
    v.count = accept("]") ? 0 : v.count * integer();
    if (v.count) expect("]");
  }
  if (v.count > (1ull << 40)) fail("variable is too large");
  v.size = v.count * width;
  return v;
}

void Loader::initializer(const Variable &v, Global *g) {
  const uint32_t width = widthOf(v.type);
  if (!width || g->size > 256u << 20) fail("variable with initial values is too large");
  g->initial.assign(g->size, 0);
  uint64_t offset = 0;
  const auto value = [&] {
    const bool negative = accept("-");
    Literal l;
    if (peek().kind != Token::Number || !number(peek().text, &l))
      fail("initialiser \"" + std::string(peek().text) + "\" is not supported: only numbers are");
    next();
    uint64_t bits = l.bits;
    if (l.kind == Literal::Decimal && width == 4) {
      double d;
      memcpy(&d, &bits, 8);
      const float f = (float)d;
      uint32_t single;
      memcpy(&single, &f, 4);
      bits = single;
    }
    if (negative) bits = l.kind == Literal::Integer ? 0 - bits : bits ^ 1ull << (8 * width - 1);
    if (offset + width > g->size) fail("more initial values than elements");
    memcpy(&g->initial[offset], &bits, width);
    offset += width;
  };
  const std::function<void()> list = [&] {
    if (!accept("{")) return value();
    if (accept("}")) return;
    do list();
    while (accept(","));
    expect("}");
  };
  list();
}

void Loader::globalVariable(bool constant, bool external) {
  const Variable v = variable();
  if (external) fail("variable " + std::string(v.name) + " is .extern, and nothing is linked to this module");
  Global g;
  g.name = v.name;
  g.size = v.size;
  g.align = v.align;
  g.constant = constant;
  if (accept("=")) initializer(v, &g);
  expect(";");
  if (!place) fail("variables of the module have no place here");
  if (Fault f = place(g)) throw f;
  Symbol s{constant ? Symbol::Const : Symbol::Global};
  s.value = g.address;
  s.size = g.size;
  moduleScope.names[v.name] = s;
  module->globalsByName[g.name] = std::move(g);
}

// header reads .entry name(params) directives { body }, or .func (results) name(params) { body }.
void Loader::header(bool entry, bool external) {
  Function f;
  const auto list = [&](auto &&each) {
    expect("(");
    while (!accept(")")) {
      if (!accept(".param") && !accept(".reg")) fail("\".param\" is missing");
      each(variable());
      if (!peek().is(")")) expect(",");
    }
  };
  const auto remember = [&](const Variable &v) { f.params.push_back(v.name); };
  if (!entry && peek().is("(")) {
    list(remember);
    f.results = f.params.size();
  }
  const std::string_view name = next().text;
  Kernel k;
  k.name = name;
  if (peek().is("(")) {
    if (entry)
      list([&](const Variable &v) {
        k.paramBytes = (uint32_t)((k.paramBytes + v.align - 1) / v.align * v.align);
        k.params.push_back({std::string(v.name), k.paramBytes, (uint32_t)v.size, (uint32_t)v.align});
        k.paramBytes += (uint32_t)v.size;
      });
    else list(remember);
  }
  const auto three = [&](uint32_t *dims) {
    for (int d = 0; d < 3; d++) dims[d] = 1;
    int d = 0;
    do dims[d++] = (uint32_t)integer();
    while (d < 3 && accept(","));
  };
  while (!peek().is("{") && !peek().is(";")) {
    if (accept(".maxntid")) three(k.maxThreadsDims);
    else if (accept(".reqntid")) three(k.requiredDims);
    else if (accept(".minnctapersm")) k.minBlocks = (uint32_t)integer();
    else if (accept(".maxnreg") || accept(".maxclusterrank")) integer();
    else if (accept(".noreturn")) continue;
    else if (accept(".pragma")) skipStatement();
    else fail("directive \"" + std::string(peek().text) + "\" of a function is not supported");
  }
  for (const uint32_t *dims : {k.maxThreadsDims, k.requiredDims})
    if (dims[0]) k.maxThreads = dims[0] * dims[1] * dims[2];
  if (accept(";")) {
    if (entry && !external) fail("kernel without a body");
    functions.emplace(name, f);
    return;
  }
  if (!entry) {
    f.body = at + 1;
    functions[name] = f;
    return skipBraces();
  }
  kernelBody(&k);
  module->kernelsByName[k.name] = std::move(k);
}

void Loader::kernelBody(Kernel *k) {
  const auto fresh = std::make_shared<Program>();
  fresh->kernel = k->name;
  program = fresh.get();
  kernel = k;
  regs.assign(1, Reg{8});
  occurrences.clear();
  labels.clear();
  branches.clear();
  switches.clear();
  branchTargets.clear();
  pools.clear();
  sharedPlaces.clear();
  sharedUsed = localUsed = 0;
  sharedAlign = 16;
  prefix = returnLabel = "";
  copies = 0;
  Scope own;
  own.outer = &moduleScope;
  scope = &own;
  for (const Param &p : k->params) {
    Symbol s{Symbol::Param};
    s.value = p.offset;
    s.size = p.size;
    own.names[p.name] = s;
  }
  join();
  expect("{");
  body("");
  scope = nullptr;
  finish(k);
  k->program = fresh;
}

void Loader::declare(const Symbol &s, std::string_view name) { scope->names[name] = s; }

const Symbol *Loader::lookup(std::string_view name) {
  for (Scope *s = scope ? scope : &moduleScope; s; s = s->outer) {
    const auto it = s->names.find(name);
    if (it != s->names.end()) return &it->second;
  }
  return nullptr;
}

uint64_t Loader::frame(uint64_t *used, uint64_t size, uint64_t align) const {
  const uint64_t at = (*used + align - 1) / align * align;
  *used = at + size;
  if (*used > (1u << 30)) fail("variables of a kernel are too large");
  return at;
}

void Loader::declareRegisters() { // .reg .b32 %r<10>, %x;
  const uint32_t width = widthOf(next().text);
  const auto one = [&](std::string_view name) {
    Symbol s{Symbol::Register};
    s.reg = (uint32_t)regs.size();
    regs.push_back({(uint8_t)(width == 1 ? 2 : width)});
    declare(s, name);
  };
  do {
    const std::string_view name = next().text;
    if (accept("<")) {
      const uint64_t n = integer();
      expect(">");
      if (n > (1u << 20)) fail("too many registers");
      for (uint64_t i = 0; i < n; i++) one(*made.insert(std::string(name) + std::to_string(i)).first);
    } else {
      one(name);
    }
  } while (accept(","));
  expect(";");
}

// body reads up to the "}" of a body or of a block within; `labelPrefix` tells copies of a function's labels apart.
void Loader::body(const std::string &labelPrefix) {
  prefix = labelPrefix;
  while (!accept("}")) {
    const Token &t = peek();
    if (t.kind == Token::End) fail("\"}\" is missing");
    if (accept("{")) {
      Scope inner;
      inner.outer = scope;
      scope = &inner;
      body(labelPrefix);
      scope = inner.outer;
    } else if (accept(".reg")) {
      declareRegisters();
    } else if (accept(".shared")) {
      const Variable v = variable();
      expect(";");
      Symbol s{Symbol::Shared};
      sharedAlign = std::max(sharedAlign, v.align);
      s.value = frame(&sharedUsed, v.size, v.align);
      declare(s, v.name);
    } else if (t.is(".local") || t.is(".param")) { // .param: arguments of calls, kept in local memory
      next();
      const Variable v = variable();
      expect(";");
      Symbol s{Symbol::Local};
      s.value = frame(&localUsed, v.size, std::max<uint64_t>(v.align, 16));
      declare(s, v.name);
    } else if (t.is(".loc") || t.is(".file")) {
      const uint32_t line = t.line;
      while (peek().line == line && peek().kind != Token::End && !peek().is("}")) next();
    } else if (t.is(".pragma")) {
      skipStatement();
    } else if (t.kind == Token::Word && peek(1).is(":")) {
      const std::string name = labelPrefix + std::string(t.text);
      next();
      next();
      if (accept(".branchtargets")) {
        std::vector<std::string> &targets = branchTargets[name];
        do targets.push_back(labelPrefix + std::string(next().text));
        while (accept(","));
        expect(";");
      } else if (peek().is(".callprototype") || peek().is(".calltargets")) {
        skipStatement();
      } else {
        placeLabel(name);
      }
    } else if (!accept(";")) {
      decode(statement());
    }
  }
}

void Loader::placeLabel(const std::string &name) {
  join();
  Label &l = labels[name];
  if (l.at != ~0u) fail("label " + name + " twice");
  l.at = (uint32_t)program->code.size() - 1;
}

Operand Loader::atom() {
  Operand o;
  const Token t = peek();
  o.text = t.text;
  if (t.kind == Token::Number || t.is("-") || t.is("+")) {
    bool negative = false;
    while (peek().is("-") || peek().is("+")) negative ^= next().is("-");
    if (!number(peek().text, &o.literal)) fail("\"" + std::string(peek().text) + "\" is no number");
    next();
    o.kind = Operand::Immediate;
    if (negative && o.literal.kind == Literal::Integer) o.literal.bits = 0 - o.literal.bits;
    else if (negative) o.literal.bits ^= 1ull << (o.literal.kind == Literal::Single ? 31 : 63);
    return o;
  }
  if (t.kind != Token::Word) fail("operand \"" + std::string(t.text) + "\" is not understood");
  next();
  if (t.text == "_") return o;
  o.kind = Operand::Name;
  const Symbol *s = lookup(t.text);
  if (s && s->kind == Symbol::Register) {
    o.kind = Operand::Register;
    o.reg = s->reg;
  } else {
    o.symbol = s;
  }
  return o;
}

Operand Loader::operand() {
  Operand o;
  o.text = peek().text;
  if (accept("[")) {
    o.kind = Operand::Address;
    const Operand base = atom();
    o.text = base.text;
    if (base.kind == Operand::Register) {
      o.based = true;
      o.reg = base.reg;
    } else if (base.kind == Operand::Immediate) {
      o.offset = (int64_t)base.literal.bits;
    } else if (base.symbol) {
      o.symbol = base.symbol;
    } else {
      fail("\"" + std::string(base.text) + "\" is not declared");
    }
    if (peek().is("+") || peek().is("-")) o.offset += signedInteger();
    expect("]");
    return o;
  }
  if (peek().is("{") || peek().is("(")) {
    const bool list = peek().is("(");
    next();
    o.kind = list ? Operand::List : Operand::Vector;
    while (!accept(list ? ")" : "}")) {
      o.parts.push_back(operand());
      if (!peek().is(list ? ")" : "}")) expect(",");
    }
    return o;
  }
  if (accept("!")) {
    o = atom();
    o.negated = true;
    return o;
  }
  o = atom();
  if (o.kind == Operand::Name && o.symbol && (peek().is("+") || peek().is("-"))) o.offset = signedInteger();
  if (accept("|")) {
    const Operand second = atom();
    if (second.kind == Operand::Register) o.second = second.reg;
    else if (second.kind != Operand::Sink) fail("behind \"|\" stands no register");
  }
  return o;
}

Statement Loader::statement() {
  Statement s;
  s.line = peek().line;
  if (accept("@")) {
    s.guarded = true;
    s.guardNegated = accept("!");
    const Operand p = atom();
    if (p.kind != Operand::Register || regs[p.reg].width) fail("guard \"" + std::string(p.text) + "\" is no predicate");
    s.guard = p.reg;
  }
  if (peek().kind != Token::Word) fail("\"" + std::string(peek().text) + "\" where an instruction is needed");
  s.text = next().text;
  std::string_view rest = s.text;
  for (bool first = true; !rest.empty(); first = false) {
    const size_t dot = rest.find('.');
    (first ? s.op : s.mods.emplace_back()) = rest.substr(0, dot);
    rest.remove_prefix(dot == rest.npos ? rest.size() : dot + 1);
  }
  if (!peek().is(";")) do s.operands.push_back(operand());
    while (accept(","));
  expect(";");
  return s;
}

// call puts the function in: its parameters are the names of what the caller declared for them.
void Loader::call(const Statement &s) {
  size_t i = 0;
  std::vector<const Symbol *> given;
  const auto take = [&](const Operand &list) {
    for (const Operand &o : list.parts) {
      if (o.kind != Operand::Name || !o.symbol)
        throw Error{s.line, "argument \"" + std::string(o.text) + "\" of a call is no .param"};
      given.push_back(o.symbol);
    }
  };
  if (s.guarded) throw Error{s.line, "a call with a guard is not supported"};
  if (i < s.operands.size() && s.operands[i].kind == Operand::List) take(s.operands[i++]);
  if (i == s.operands.size() || s.operands[i].kind == Operand::Register)
    throw Error{s.line, "indirect calls are not supported"};
  const std::string_view name = s.operands[i++].text;
  if (i < s.operands.size() && s.operands[i].kind == Operand::List) take(s.operands[i++]);
  const auto it = functions.find(name);
  if (it == functions.end() || !it->second.body)
    throw Error{s.line, "function " + std::string(name) + " has no body in this module"};
  const Function &f = it->second;
  if (given.size() != f.params.size())
    throw Error{s.line, "function " + std::string(name) + " takes other arguments than it is given"};
  if (std::find(calls.begin(), calls.end(), name) != calls.end())
    throw Error{s.line, "function " + std::string(name) + " calls itself, which is not supported"};
  if (++copies > 10000) throw Error{s.line, "too many calls"};

  Scope inner;
  inner.outer = &moduleScope;
  for (size_t k = 0; k < given.size(); k++) inner.names[f.params[k]] = *given[k];
  Scope *const caller = scope;
  const std::string callerPrefix = prefix, callerReturn = returnLabel;
  const size_t back = at;
  const std::string mine = std::to_string(copies) + "/";
  calls.push_back(name);
  scope = &inner;
  returnLabel = mine + "return";
  at = f.body;
  body(mine);
  placeLabel(mine + "return");
  at = back;
  scope = caller;
  prefix = callerPrefix;
  returnLabel = callerReturn;
  calls.pop_back();
}

Fault Module::load(std::string_view text, const std::function<Fault(Global &)> &place, std::unique_ptr<Module> *out) {
  auto m = std::make_unique<Module>();
  Loader loader(text, place);
  if (Fault f = loader.load(m.get())) return f;
  *out = std::move(m);
  return {};
}

std::function<Fault(Global &)> Module::placeIn(Memory &memory, int device, const void *owner) {
  return [&memory, device, owner](Global &g) -> Fault {
    const uint64_t size = g.size ? g.size : 1;
    if (Fault f = memory.allocate(size, device, Kind::Device, owner, &g.address, g.align, g.constant)) return f;
    uint8_t *p = memory.bytes(g.address, size);
    memset(p, 0, size);
    if (!g.initial.empty()) memcpy(p, g.initial.data(), g.initial.size());
    memory.bornWritten(g.address);
    return {};
  };
}

const Kernel *Module::kernel(const std::string &name) const {
  const auto it = kernelsByName.find(name);
  return it == kernelsByName.end() ? nullptr : &it->second;
}
const Global *Module::global(const std::string &name) const {
  const auto it = globalsByName.find(name);
  return it == globalsByName.end() ? nullptr : &it->second;
}

} // namespace emu
