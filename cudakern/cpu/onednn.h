// What this package asks of oneDNN: primitives on one thread, with operands that may lie otherwise than they like, and
// the layouts of weights.
#pragma once
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "dnnl_compat.h"
#include "engine.h"
#include "lanes.h"

extern "C" void omp_set_num_threads(int);

// A layout of weights, made once and there as long as the process: a name always means the same. Either oneDNN's, or
// out/B x in x B of dense layers, padded with zeros.
struct ck_layout {
  std::string name;
  size_t bytes;
  compat::md desc, plain; // oneDNN's
  int out, in, block;     // of dense layers; block is 0 for oneDNN's
};

namespace onednn {

using namespace compat;
using tag = memory::format_tag;
constexpr auto f32 = memory::data_type::f32;

inline const engine &cpu() {
  static engine e(engine::kind::cpu, 0);
  return e;
}

// guard calls f and turns what it throws into a message. OpenMP never makes a team: oneDNN asks for as many threads as
// the calling thread's setting says, and every OS thread that asked for more would keep a pool of its own.
template <class F> int guard(char *err, F f) {
  try {
    omp_set_num_threads(1);
    f();
    return 0;
  } catch (const dnnl::error &e) {
    snprintf(err, ERR_BYTES, "oneDNN: %s (status %d)", e.what(), (int)e.status);
  } catch (const std::exception &e) {
    snprintf(err, ERR_BYTES, "%s", e.what());
  }
  return 1;
}

// layout finds oneDNN's layout for weights of a shape; blocked that for a dense layer.
const ck_layout *layout(const md &d, const dims &shape);
const ck_layout *blocked(int out, int in, int block);

struct Reorder {
  reorder prim;
  memory from, to;
  Reorder(const md &f, const md &t)
      : prim(reorder::primitive_desc(cpu(), f, cpu(), t)), from(f, cpu(), nullptr), to(t, cpu(), nullptr) {}
  void run(const void *src, void *dst) {
    stream s(cpu());
    from.set_data_handle(const_cast<void *>(src));
    to.set_data_handle(dst);
    prim.execute(s, from, to);
    s.wait();
  }
};

// Operand is one that may have to be converted: held is the primitive's, outer the caller's.
class Operand {
public:
  void make(const md &outer, const md &inner, bool out) {
    if (outer == inner) return;
    convert.reset(out ? new Reorder(inner, outer) : new Reorder(outer, inner));
    copy = lanes::allocate(inner.get_size() / sizeof(float));
  }
  // in gives the caller's values as the primitive wants them; place is where it leaves its own, for out to hand over.
  const float *in(const float *outer) {
    if (convert) convert->run(outer, copy.get());
    return place(outer);
  }
  float *place(const float *outer) const { return convert ? copy.get() : const_cast<float *>(outer); }
  void out(float *outer) {
    if (convert) convert->run(copy.get(), outer);
  }

private:
  std::unique_ptr<Reorder> convert;
  lanes::Memory copy;
};

// Run is one primitive at work for one thread, with operands and scratch memory of its own.
class Run {
public:
  template <class PD> void make(const primitive &p, const PD &pd) {
    prim = p;
    const auto s = pd.scratchpad_desc();
    scratch = lanes::allocate((s.get_size() + sizeof(float) - 1) / sizeof(float));
    args[DNNL_ARG_SCRATCHPAD] = memory(s, cpu(), scratch.get());
  }
  void in(int arg, const md &outer, const md &inner) { add(arg, outer, inner, false); }
  void out(int arg, const md &outer, const md &inner) { add(arg, outer, inner, true); }
  void set(int arg, const float *p) { operands.at(arg).outer = const_cast<float *>(p); }
  void go() {
    for (auto &o : operands) {
      float *p = o.second.outer;
      args.at(o.first).set_data_handle(o.second.out ? o.second.by.place(p) : const_cast<float *>(o.second.by.in(p)));
    }
    stream s(cpu());
    prim.execute(s, args);
    s.wait();
    for (auto &o : operands)
      if (o.second.out) o.second.by.out(o.second.outer);
  }

private:
  struct Given {
    Operand by;
    bool out;
    float *outer;
  };
  void add(int arg, const md &outer, const md &inner, bool out) {
    args[arg] = memory(inner, cpu(), nullptr);
    Given &o = operands[arg];
    o.out = out;
    o.by.make(outer, inner, out);
  }
  primitive prim;
  std::unordered_map<int, memory> args;
  std::map<int, Given> operands;
  lanes::Memory scratch;
};

} // namespace onednn
