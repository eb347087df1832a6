// Each check must find the mistake it is for, and say nothing of the right version.
#include "optest.h"

namespace optest {

namespace {

const std::string head =
    ".reg .b32 %r<12>, %i, %n, %s;\n.reg .b64 %d<6>, %a, %o, %w;\n.reg .pred %p<6>;\n.shared .align 16 .b8 sm[1024];\n"
    "mov.u32 %i, %tid.x;\nmov.u32 %n, %ctaid.x;\nmov.u32 %r0, %ntid.x;\nmad.lo.s32 %n, %n, %r0, %i;\n"
    "mul.wide.u32 %w, %n, 4;\nadd.s64 %a, %in, %w;\nadd.s64 %o, %out, %w;\nmov.u32 %s, sm;\nmad.lo.s32 %s, %i, 4, "
    "%s;\n";

Run kernel(const std::string &body, unsigned threads = 64, unsigned blocks = 1) {
  Run r;
  r.body = head + body;
  r.block = {threads, 1, 1};
  r.grid = {blocks, 1, 1};
  r.in.assign(threads * blocks, 1);
  r.out.assign(threads * blocks, 0);
  return r;
}

struct Pair {
  std::string name, right, wrong, says;
  unsigned threads = 64, blocks = 1;
  emu::Check level = emu::Check::Full; // the lowest that finds it
};

const std::string toNext = // the address in shared memory of the thread's neighbour in the other warp
    "xor.b32 %r1, %i, 32;\nmov.u32 %r2, sm;\nmad.lo.s32 %r2, %r1, 4, %r2;\n";
const std::string inWarp = "xor.b32 %r1, %i, 1;\nmov.u32 %r2, sm;\nmad.lo.s32 %r2, %r1, 4, %r2;\n";

const Pair pairs[] = {
    {"read behind the end", "ld.global.u32 %r3, [%a];\n", "ld.global.u32 %r3, [%a+4];\n", "behind an allocation", 64, 1,
     emu::Check::Bounds},
    {"read behind the end by half the lanes", "setp.lt.u32 %p0, %i, 7;\n@%p0 ld.global.u32 %r3, [%a+4];\n",
     "setp.gt.u32 %p0, %i, 7;\n@%p0 ld.global.u32 %r3, [%a+4];\n", "allocation of 256 bytes", 64, 1,
     emu::Check::Bounds},
    {"write before the beginning", "st.global.u32 [%o], %i;\n", "st.global.u32 [%o+-4], %i;\n", "write of 4 bytes", 64,
     1, emu::Check::Bounds},
    {"null pointer", "mov.u64 %d0, %out;\nst.global.u32 [%o], %i;\n", "mov.u64 %d0, 0;\nst.global.u32 [%d0], %i;\n",
     "null pointer", 64, 1, emu::Check::Bounds},
    {"generic null pointer", "ld.u32 %r3, [%a];\n", "mov.u64 %d0, 0;\nld.u32 %r3, [%d0];\n", "null pointer", 64, 1,
     emu::Check::Bounds},
    {"misaligned word", "ld.global.u32 %r3, [%a];\n", "ld.global.u32 %r3, [%in+2];\n", "not a multiple of 4", 64, 1,
     emu::Check::Bounds},
    {"misaligned vector", "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%in+16];\n",
     "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%in+8];\n", "not a multiple of 16", 64, 1, emu::Check::Bounds},
    {"misaligned vector in shared memory", "st.shared.v2.u32 [sm+8], {%i, %i};\n",
     "st.shared.v2.u32 [sm+4], {%i, %i};\n", "not a multiple of 8", 1, 1, emu::Check::Bounds},
    {"beyond shared memory", "st.shared.u32 [%s+768], %i;\n", "st.shared.u32 [%s+772], %i;\n",
     "1024 bytes of shared memory", 64, 1, emu::Check::Bounds},
    {"write to constants", "mov.u64 %d0, c;\nld.global.u32 %r3, [%d0];\n",
     "mov.u64 %d0, c;\nst.global.u32 [%d0], %i;\n", "constant memory", 1, 1, emu::Check::Bounds},
    {"trap", "setp.gt.u32 %p0, %i, 99;\n@%p0 trap;\n", "setp.gt.u32 %p0, %i, 9;\n@%p0 trap;\n", "thread (10,0,0)", 64,
     1, emu::Check::Bounds},
    {"shuffle from a lane that is not there", "shfl.sync.down.b32 %r1, %i, 1, 31, -1;\n",
     "setp.gt.u32 %p0, %i, 3;\n@%p0 exit;\nshfl.sync.down.b32 %r1, %i, 1, 31, 0xf;\n", "takes no part", 32, 1,
     emu::Check::Bounds},
    {"shuffle for which a lane never comes", "shfl.sync.bfly.b32 %r1, %i, 1, 31, -1;\n",
     "setp.gt.u32 %p0, %i, 3;\n@%p0 bra W;\nshfl.sync.bfly.b32 %r1, %i, 1, 31, -1;\nbra E;\nW:\nbar.sync 0;\nE:\n",
     "never come", 32, 1, emu::Check::Bounds},
    {"lane outside of its own mask", "shfl.sync.bfly.b32 %r1, %i, 1, 31, -1;\n",
     "shfl.sync.bfly.b32 %r1, %i, 1, 31, 0xffff;\n", "own member mask", 32, 1, emu::Check::Bounds},
    {"barrier at which a lane never arrives", "bar.sync 0;\n",
     "setp.eq.u32 %p0, %i, 5;\n@%p0 bra A;\nbar.sync 0;\nbra E;\nA:\nbar.sync 1;\nE:\n", "never arrive", 64, 1,
     emu::Check::Bounds},
    {"barrier for a number of threads that never comes", "bar.sync 1, 64;\n", "bar.sync 1, 96;\n", "never arrive", 64,
     1, emu::Check::Bounds},
    {"loop without an end", "nanosleep.u32 1;\n", "L:\nbra L;\n", "has not ended", 64, 1, emu::Check::Bounds},
    {"barrier in divergent code", "setp.lt.u32 %p0, %i, 40;\nbar.sync 0;\n",
     "setp.lt.u32 %p0, %i, 40;\n@!%p0 bra E;\nbar.sync 0;\nE:\n", "divergent barrier"},
    {"barrier in both branches", "bar.sync 0;\n",
     "setp.lt.u32 %p0, %i, 32;\n@%p0 bra A;\nbar.sync 0;\nbra E;\nA:\nbar.sync 0;\nE:\n", "divergent barrier"},
    {"read of memory nobody wrote", "ld.global.u32 %r3, [%a];\n", "ld.global.u32 %r3, [blank];\n",
     "nothing has written", 1, 1},
    {"read of shared memory nobody wrote", "st.shared.u32 [%s], %i;\nld.shared.u32 %r3, [%s];\n",
     "st.shared.u32 [%s], %i;\nld.shared.u32 %r3, [%s+256];\n", "nothing has written"},
    {"read of half a word nobody wrote", "st.shared.u32 [%s], %i;\nld.shared.u32 %r3, [%s];\n",
     "st.shared.u16 [%s], 7;\nld.shared.u32 %r3, [%s];\n", "nothing has written"},
    {"read of local memory nobody wrote", "st.local.u32 [lo], %i;\nld.local.u32 %r3, [lo];\n",
     "st.local.u32 [lo], %i;\nld.local.u32 %r3, [lo+4];\n", "has not written"},
    {"no barrier before reading", "st.shared.u32 [%s], %i;\nbar.sync 0;\n" + toNext + "ld.shared.u32 %r3, [%r2];\n",
     "st.shared.u32 [%s], %i;\n" + toNext + "setp.lt.u32 %p0, %i, 32;\n@%p0 exit;\nld.shared.u32 %r3, [%r2];\n",
     "shared memory"},
    {"no barrier before writing again",
     "st.shared.u32 [%s], %i;\nbar.sync 0;\n" + toNext +
         "ld.shared.u32 %r3, [%r2];\nbar.sync 0;\nst.shared.u32 [%s], %r3;\n",
     "st.shared.u32 [%s], %i;\nbar.sync 0;\n" + toNext + "ld.shared.u32 %r3, [%r2];\nst.shared.u32 [%s], %r3;\n",
     "race in shared memory"},
    {"two threads write one word", "st.shared.u32 [sm], %r0;\n", "st.shared.u32 [sm], %i;\n",
     "race in shared memory"}, // the same value is none
    {"lanes of a warp without bar.warp.sync",
     "st.shared.u32 [%s], %i;\nbar.warp.sync -1;\n" + inWarp + "ld.shared.u32 %r3, [%r2];\n",
     "st.shared.u32 [%s], %i;\n" + inWarp + "ld.shared.u32 %r3, [%r2];\n", "race in shared memory"},
    {"bytes apart", "mov.u32 %r2, sm;\nadd.s32 %r2, %r2, %i;\nst.shared.u8 [%r2], %i;\n",
     "mov.u32 %r2, sm;\nshr.u32 %r1, %i, 1;\nadd.s32 %r2, %r2, %r1;\nst.shared.u8 [%r2], %i;\n",
     "race in shared memory"},
    {"atomics in shared memory",
     "mov.u32 %r3, 0;\nst.shared.u32 [sm], %r3;\nbar.sync 0;\natom.shared.add.u32 %r1, [sm], 1;\n",
     "mov.u32 %r3, 0;\nst.shared.u32 [sm], %r3;\nbar.sync 0;\natom.shared.add.u32 %r1, [sm], 1;\nld.shared.u32 %r2, "
     "[sm];\n",
     "race in shared memory"},
    {"cp.async not waited for",
     "cp.async.ca.shared.global [%s], [%a], 4;\ncp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync "
     "0;\nld.shared.u32 %r3, [%s];\n",
     "cp.async.ca.shared.global [%s], [%a], 4;\ncp.async.commit_group;\ncp.async.wait_group 1;\nbar.sync "
     "0;\nld.shared.u32 %r3, [%s];\n",
     "cp.async"},
    {"cp.async waited for, no barrier",
     "cp.async.ca.shared.global [%s], [%a], 4;\ncp.async.wait_all;\nbar.sync 0;\n" + toNext +
         "ld.shared.u32 %r3, [%r2];\n",
     "cp.async.ca.shared.global [%s], [%a], 4;\ncp.async.wait_all;\n" + toNext + "ld.shared.u32 %r3, [%r2];\n", ""},
    {"cp.async over what is being read",
     "st.shared.u32 [%s], %i;\nbar.sync 0;\n" + toNext +
         "ld.shared.u32 %r3, [%r2];\nbar.sync 0;\ncp.async.ca.shared.global [%s], [%a], 4;\ncp.async.wait_all;\n",
     "st.shared.u32 [%s], %i;\nbar.sync 0;\n" + toNext +
         "ld.shared.u32 %r3, [%r2];\ncp.async.ca.shared.global [%s], [%a], 4;\ncp.async.wait_all;\n",
     "race in shared memory"},
    {"blocks write one word", "st.global.u32 [%o], %n;\n", "st.global.u32 [%out], %n;\n", "block 0 (in linear order)",
     1, 2},
    {"a block reads what another wrote", "st.global.u32 [%o], %n;\nld.global.u32 %r3, [%o];\n",
     "st.global.u32 [%o], 7;\nld.global.u32 %r3, [%out];\n", "block 0 (in linear order)", 1, 2},
    {"a block writes what another read", "ld.global.u32 %r3, [%out];\nst.global.u32 [%in], 1;\n",
     "ld.global.u32 %r3, [%out];\nsetp.eq.u32 %p0, %n, 1;\n@%p0 st.global.u32 [%out], 5;\n", "writes what was read", 1,
     2},
    {"blocks add by atomics", "red.global.add.u32 [%out], 1;\n",
     "ld.global.u32 %r3, [%out];\nadd.s32 %r3, %r3, 1;\nst.global.u32 [%out], %r3;\n", "race in global memory", 1, 2},
    {"warps of a block through global memory",
     "st.global.u32 [%o], %i;\nbar.sync 0;\nxor.b32 %r1, %i, 32;\nmul.wide.u32 %d0, %r1, 4;\nadd.s64 %d0, %out, "
     "%d0;\nld.global.u32 %r3, [%d0];\n",
     "st.global.u32 [%o], %i;\nxor.b32 %r1, %i, 32;\nmul.wide.u32 %d0, %r1, 4;\nadd.s64 %d0, %out, %d0;\nld.global.u32 "
     "%r3, [%d0];\n",
     "thread 0 of the same block"},
};

void planted() {
  for (const Pair &p : pairs)
    for (const uint64_t seed : {0ull, 5ull}) {
      const std::string own = ".local .align 4 .b8 lo[8];\n";
      const std::string declared = ".const .align 4 .u32 c = 3;\n.global .align 4 .b8 blank[4];\n";
      Run right = kernel(own + p.right, p.threads, p.blocks), wrong = kernel(own + p.wrong, p.threads, p.blocks);
      right.seed = wrong.seed = seed;
      right.limit = wrong.limit = 1 << 22;
      right.declarations = wrong.declarations = declared;
      clean(right, p.name);
      if (p.name == "read of memory nobody wrote") { // variables of a module are zeros: take memory of the program's
        wrong.body = head + "ld.global.u32 %r3, [%out];\n";
        wrong.outWritten = false;
      }
      if (p.name.find("write") != std::string::npos && seed) continue; // which of two is named depends on the order
      if (seed && (p.blocks > 1 || p.says.find("thread") != std::string::npos)) continue;
      if (p.level == emu::Check::Bounds) {
        wrong.checks = emu::Check::Bounds;
        faulty(wrong, p.says, p.name + " (bounds)");
        wrong.checks = emu::Check::Full;
      }
      faulty(wrong, p.says, p.name);
    }
}

// Operations on streams: 1 and 2 are on streams of their own, 3 waits for both.
class TestOrder : public emu::Order {
public:
  bool before(uint32_t earlier, uint32_t later) const override { return later == 3 && earlier < 3; }
  std::string name(uint32_t op) const override { return "operation " + std::string(1, (char)('A' + op - 1)); }
};

void streams() {
  TestOrder order;
  emu::Memory memory(emu::Check::Full);
  uint64_t a = 0;
  std::vector<uint8_t> host(64, 1);
  memory.allocate(64, 0, emu::Kind::Device, nullptr, &a);
  const emu::Access none, first{1, &order, ""}, second{2, &order, ""}, third{3, &order, ""};
  const auto says = [](const emu::Fault &f, const char *part, const std::string &what) {
    expect(part ? (bool)f && f.text.find(part) != std::string::npos : !f, what + ": " + f.text);
  };
  says(memory.read(none, a, 64, host.data()), "nothing has written", "copy of what nobody wrote");
  says(memory.write(first, a, 64, host.data()), nullptr, "write");
  says(memory.read(second, a, 64, host.data()), "operation A", "read beside a write");
  says(memory.read(third, a, 64, host.data()), nullptr, "read behind a write");
  says(memory.write(none, a, 64, host.data()), nullptr, "write of nobody");
  says(memory.read(first, a, 32, host.data()), nullptr, "first reader");
  says(memory.read(second, a, 32, host.data()), nullptr, "second reader beside it");
  says(memory.set(second, a, 8, 0, 4), "operation A", "write beside a reader");
  says(memory.set(third, a, 8, 0, 4), nullptr, "write behind both");
  says(memory.write(first, a + 32, 1, host.data()), nullptr, "write of a byte");
  says(memory.write(second, a + 33, 1, host.data()), nullptr, "write of the byte beside it");
  // What nobody wrote is still that after a copy.
  uint64_t b = 0;
  memory.allocate(64, 0, emu::Kind::Device, nullptr, &b);
  memory.write(none, b, 32, host.data());
  uint64_t c = 0;
  memory.allocate(64, 0, emu::Kind::Device, nullptr, &c);
  says(memory.copy(none, c, b, 64), nullptr, "copy");
  says(memory.read(none, c, 32, host.data()), nullptr, "read of the copied half");
  says(memory.read(none, c + 32, 4, host.data()), "nothing has written", "read of the other half");
  memory.free(b);
  says(memory.read(none, b, 4, host.data()), "was freed", "read of freed memory");
  says(memory.read(none, a, 65, host.data()), "over the end", "read of too much");
  memory.setLimit(0, 1 << 20);
  says(memory.allocate(2 << 20, 0, emu::Kind::Device, nullptr, &b), "in use", "more than there is");
  emu::Share share;
  uint64_t d = 0;
  memory.allocate(64, 0, emu::Kind::Device, nullptr, &d);
  memory.bornWritten(d);
  says(memory.read(none, d, 64, host.data()), nullptr, "read of what counts as written");
  says(memory.copy(none, d, c + 32, 4), nullptr, "copy of what nobody wrote to there");
  says(memory.read(none, d, 4, host.data()), "nothing has written", "read of it");
  says(memory.share(d, &share), nullptr, "share");
  uint64_t other = 0;
  emu::Memory second_(emu::Check::Bounds);
  says(second_.import(share, 0, nullptr, &other), nullptr, "import");
  uint32_t word = 0x01234567, got = 0;
  second_.write(none, other + 4, 4, &word);
  memory.read(none, d + 4, 4, &got);
  expect(got == word, "imported memory is the same memory");
  expect(memory.inReservation(a) && !memory.inReservation((uint64_t)&word), "reservation");
}

} // namespace

void checks() {
  planted();
  streams();
}

void refusals() {
  const auto refused = [](const std::string &body, const std::string &part) {
    Run r = kernel(body);
    const emu::Fault f = run(r);
    expect(f.code == emu::InvalidPtx && f.text.find(part) != std::string::npos &&
               f.text.compare(0, 9, "PTX line ") == 0,
           "refusing \"" + body + "\": " + f.text);
  };
  refused("frobnicate.u32 %r1, %r2;", "not supported");
  refused("add.f16 %r1, %r2, %r3;", "other forms of add");
  refused("add.s32 %r1, %r2;", "operands");
  refused("add.s32 %d1, %r2, %r3;", "bits where 32");
  refused("add.s32 %r1, %r2, %r99;", "not declared");
  refused("bra NOWHERE;", "NOWHERE");
  refused("ld.global.u32 %r1, %r2;", "address");
  refused("ld.param.u32 %r1, [in_+8];", "beyond the parameter");
  refused("ld.global.u64 %r1, [%a];", "no register it can load to");
  refused("@%r1 add.s32 %r1, %r2, %r3;", "no predicate");
  refused("call nothing;", "no body");
  refused("add.s32 %r1, %r2, 99999999999999999999999;", "no number");
  refused("{ add.s32 %r1, %r2, %r3;", "\"}\"");
  refused("add.s32 %r1, %r2, %r3", "\";\"");
  refused(".shared .b8 huge[4000000000];", "too large");
  std::unique_ptr<emu::Module> m;
  for (const char *text : {"", "not PTX", "\x7f" "ELF"})
    expect(emu::Module::load(text, nullptr, &m).code == emu::InvalidImage, "refusing what is no PTX");
  expect(emu::Module::load(".version 6.3\n.target sm_70\n.address_size 64\n.visible .entry k(", nullptr, &m).code ==
             emu::InvalidPtx,
         "refusing half a kernel");
  // limits of a launch
  emu::Module::load(".version 6.3\n.target sm_70\n.address_size 64\n.visible .entry k() .maxntid 128, 1, 1 { .shared "
                    ".b8 s[40000]; ret; }",
                    nullptr, &m);
  const emu::Kernel &k = *m->kernel("k");
  const emu::Limits limits;
  expect(!emu::validate(k, {1, 1, 1}, {128, 1, 1}, 8000, limits), "a launch within limits");
  expect((bool)emu::validate(k, {1, 1, 1}, {129, 1, 1}, 0, limits), "more threads than compiled for");
  expect((bool)emu::validate(k, {1, 1, 1}, {64, 1, 1}, 10000, limits), "too much shared memory");
  expect((bool)emu::validate(k, {1, 65536, 1}, {64, 1, 1}, 0, limits), "too many blocks");
  expect((bool)emu::validate(k, {1, 1, 1}, {0, 1, 1}, 0, limits), "an empty block");
  // whatever the text, no crash: cut a valid module at every place, and put nonsense in
  const std::string good =
      ".version 6.3\n.target sm_70\n.address_size 64\n.global .u32 g[2] = {1, 2};\n.visible .entry k(.param .u64 "
      "p)\n{\n.reg .b32 %r<3>;\n"
      ".reg .pred %p;\nL: @%p bra L;\nld.param.u32 %r1, [p];\nsetp.eq.s32 %p|%p, %r1, -1;\nret;\n}\n";
  const auto place = [](emu::Global &) { return emu::Fault{}; };
  for (size_t at = 0; at < good.size(); at++) {
    emu::Module::load(good.substr(0, at), place, &m);
    for (const char *junk : {"{", "}", ";", "[", "%r1", "4294967296", "\"", ",", "("})
      emu::Module::load(good.substr(0, at) + junk + good.substr(at), place, &m);
  }
  expect(true, "no crash");
}

} // namespace optest
