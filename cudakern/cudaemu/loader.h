// Loader: from tokens of PTX to a module. loader.cc reads declarations and statements, decode.cc makes instructions of
// statements, slots.cc gives registers their places. Functions (.func) are put in where they are called.
#pragma once
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "decode.h"
#include "ptx.h"
#include "ptx_lex.h"

namespace emu {

// matchesPattern: the opcode ("add.rn.f32") is of the form of an Entry.
bool matchesPattern(const char *pattern, const std::string &opcode);

// Symbol is what a name stands for.
struct Symbol {
  enum Kind : uint8_t { Register, Shared, ModuleShared, DynamicShared, Local, Param, Global, Const, Function } kind;
  uint32_t reg = 0;     // Register: id
  uint64_t value = 0;   // offset in its space, or address
  uint64_t size = 0, align = 1;
};

struct Operand {
  enum Kind : uint8_t { Register, Immediate, Address, Vector, List, Name, Sink } kind = Sink;
  uint32_t reg = 0, second = 0; // ids; second: after a bar (setp p|q), 0: none
  bool negated = false;         // !p
  bool based = false;           // Address: on register reg; else on symbol, or on nothing
  const Symbol *symbol = nullptr; // Name, Address: what the name stands for, null for labels
  Literal literal;
  int64_t offset = 0;           // of Address or Name
  std::string_view text;
  std::vector<Operand> parts;
};

struct Statement {
  uint32_t line = 0;
  std::string_view text;          // the whole opcode: "ld.global.f32"
  std::string_view op;            // "ld"
  std::vector<std::string_view> mods; // "global", "f32"
  bool guarded = false, guardNegated = false;
  uint32_t guard = 0;             // register id
  std::vector<Operand> operands;
};

class Loader {
public:
  Loader(std::string_view text, const std::function<Fault(Global &)> &place) : whole(text), place(place) {}
  Fault load(Module *); // once

private:
  struct Error { // thrown within, made a Fault by load
    uint32_t line;
    std::string what;
  };
  struct Function {
    std::vector<std::string_view> params; // results first
    size_t results = 0, body = 0;         // body: token after "{"; 0: only declared
  };
  struct Scope {
    std::map<std::string_view, Symbol> names;
    Scope *outer = nullptr;
  };
  struct Reg {
    uint8_t width;        // bytes; 0: predicate
    int32_t pool = -1;    // index into Program::pool
    uint32_t slot = 0;
  };
  struct Occurrence {
    uint32_t inst, reg;
    uint16_t field;       // offset in Inst
    bool write;
    uint32_t *where;      // or a place outside (Program::more)
  };
  struct Label {
    uint32_t at = ~0u;
    std::vector<uint32_t> *table = nullptr;
  };
  struct Variable { // a declaration
    std::string_view name, type;
    uint64_t align = 1, size = 0, count = 1;
    bool array = false;
  };

  // loader.cc
  [[noreturn]] void fail(const std::string &what) const;
  const Token &peek(size_t ahead = 0) const { return tokens[std::min(at + ahead, tokens.size() - 1)]; }
  const Token &next() { return tokens[at < tokens.size() - 1 ? at++ : at]; }
  bool accept(std::string_view);
  void expect(std::string_view);
  uint64_t integer();
  int64_t signedInteger();
  void skipStatement();
  void skipBraces();
  void toplevel();
  Variable variable();
  void globalVariable(bool constant, bool external);
  void initializer(const Variable &, Global *);
  void header(bool entry, bool external);
  void kernelBody(Kernel *);
  void body(const std::string &prefix);
  void declareRegisters();
  void declare(const Symbol &, std::string_view);
  const Symbol *lookup(std::string_view);
  Statement statement();
  Operand operand();
  Operand atom();
  void call(const Statement &);
  void placeLabel(const std::string &name);
  uint32_t widthOf(std::string_view type) const;
  uint64_t frame(uint64_t *used, uint64_t size, uint64_t align) const;

  // decode.cc
  void decode(const Statement &);
  void decodeMemory(const Statement &);
  void decodeBranch(const Statement &);
  Inst start(const Statement &) const;
  void emit(Inst, std::string_view text);
  void join(); // a place where lanes may join
  void use(uint32_t field, uint32_t reg, bool write) { pending.push_back({0, reg, (uint16_t)field, write, nullptr}); }
  uint32_t source(const Operand &, char width, bool resize, const Statement &);
  uint32_t special(std::string_view name, uint8_t width, const Statement &);
  uint32_t immediate(uint8_t width, uint64_t value);
  uint32_t temporary(uint8_t width);
  uint32_t pooled(Pool);
  uint32_t resized(uint32_t reg, uint8_t width, bool sign, const Statement &);
  uint32_t address(const Operand &, const Statement &, int64_t *offset);
  void helper(const std::string &pattern, uint32_t d, uint32_t a, const Statement &, bool guarded);
  uint32_t symbolAddress(const Symbol &, int64_t offset, uint8_t width);
  void bind(const Entry &, const std::vector<struct Field> &, const Statement &);

  // slots.cc
  void finish(Kernel *);
  void assignSlots(Kernel *, bool forRuns);
  void findReaches();
  void summarize();

  // runs.cc
  bool isFma(size_t) const;
  void hoistLoads();
  void joinRuns();

  std::string_view whole; // text
  const std::function<Fault(Global &)> &place;
  Module *module = nullptr;
  std::vector<Token> tokens;
  std::set<std::string> made; // names that are not in the text as such: %r7 of %r<10>
  size_t at = 0;
  Scope moduleScope;
  std::map<std::string_view, Function> functions;

  // of the kernel at hand
  Scope *scope = nullptr;
  Program *program = nullptr;
  Kernel *kernel = nullptr;
  std::vector<Reg> regs; // by id; 0: where results go that nobody wants
  std::vector<Occurrence> occurrences, pending;
  std::map<std::string, Label> labels;
  std::vector<std::pair<uint32_t, std::string>> branches;          // instruction, label
  std::vector<std::pair<uint32_t, std::vector<std::string>>> switches; // table, labels
  std::map<std::string, std::vector<std::string>> branchTargets;
  std::map<std::tuple<int, int, uint64_t>, uint32_t> pools;        // kind, width, value -> register id
  std::map<const Symbol *, uint64_t> sharedPlaces;                 // of module-scope variables
  uint64_t sharedUsed = 0, localUsed = 0, sharedAlign = 16;
  std::vector<std::string_view> calls; // functions being put in
  std::string prefix;                  // of labels
  std::string returnLabel;             // of the function being put in
  unsigned copies = 0;                 // functions put in so far
  const Ops *ops = nullptr;
};

} // namespace emu
