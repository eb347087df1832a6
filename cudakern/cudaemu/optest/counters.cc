// Counts in detail: sectors of global memory and passes through the banks of shared memory, of accesses whose pattern
// is chosen by hand, one kernel each.
#include "optest.h"

namespace optest {

namespace {

// What a kernel should have counted of the one access in it.
struct Want {
  uint64_t loaded, stored, passes, ideal;
};

// access runs `text` with %g, %o and %s as the lane's addresses in the input, the output and shared memory: as many
// bytes behind their beginnings, which are aligned, as `place` leaves in %v4.
void access(const std::string &what, const std::string &place, const std::string &text, const Want &want) {
  emu::Counts counts;
  counts.detail = true;
  Run r;
  r.checks = emu::Check::Bounds;
  r.in.assign(4096, 0);
  r.out.assign(4096, 0);
  r.counts = &counts;
  r.declarations = ".shared .align 128 .b8 sm[16384];\n";
  r.body = ".reg .b32 %i, %v<5>, %z;\n.reg .b64 %w, %g, %o, %s, %sm;\n.reg .pred %p;\nmov.u32 %i, %tid.x;\n"
           "mov.u32 %v0, 0;\nmov.u32 %v1, 0;\nmov.u32 %v2, 0;\nmov.u32 %v3, 0;\nmov.u64 %sm, sm;\n" + place +
           "cvt.u64.u32 %w, %v4;\nadd.s64 %g, %in, %w;\nadd.s64 %o, %out, %w;\nadd.s64 %s, %sm, %w;\n" + text;
  clean(r, what);
  const auto all = counts.all();
  if (all.empty()) return expect(false, what + ": nothing was counted");
  const emu::Tally t = all.begin()->second.begin()->second;
  expect(t.sectorsLoaded == want.loaded && t.sectorsStored == want.stored && t.sharedPasses == want.passes &&
             t.sharedPassesIdeal == want.ideal,
         what + ": " + std::to_string(t.sectorsLoaded) + " sectors loaded, " + std::to_string(t.sectorsStored) +
             " stored, " + std::to_string(t.sharedPasses) + " passes, " + std::to_string(t.sharedPassesIdeal) +
             " without conflicts");
}

// Places, as text that leaves the lane's distance in bytes in %v4.
std::string apart(int bytes) { return "mul.lo.u32 %v4, %i, " + std::to_string(bytes) + ";\n"; }
const std::string together = "mov.u32 %v4, 0;\n";
const std::string byEight = "shr.u32 %v4, %i, 3;\nshl.b32 %v4, %v4, 4;\n"; // 8 lanes have one address, 16 bytes on
const std::string inEight = "and.b32 %v4, %i, 7;\nshl.b32 %v4, %v4, 4;\n"; // each 8 lanes have the same 128 bytes
const std::string half = "setp.lt.u32 %p, %i, 16;\n";

void sectors() {
  const std::string word = "ld.global.u32 %v0, [%g];\n", four = "ld.global.v4.u32 {%v0, %v1, %v2, %v3}, [%g];\n";
  access("ld of neighbouring words", apart(4), word, {4, 0, 0, 0});
  access("ld of neighbouring words, one off", apart(4), "ld.global.u32 %v0, [%g+4];\n", {5, 0, 0, 0});
  access("ld of one word", together, word, {1, 0, 0, 0});
  access("ld of every second word", apart(8), word, {8, 0, 0, 0});
  access("ld of a word a sector", apart(32), word, {32, 0, 0, 0});
  access("ld of words further apart", apart(256), word, {32, 0, 0, 0});
  access("ld of neighbouring fours", apart(16), four, {16, 0, 0, 0});
  access("ld of half the lanes", apart(4), half + "@%p " + word, {2, 0, 0, 0});
  access("ld of neighbouring bytes", apart(1), "ld.global.u8 %v0, [%g];\n", {1, 0, 0, 0});
  access("generic ld", apart(4), "ld.u32 %v0, [%g];\n", {4, 0, 0, 0});
  access("st of neighbouring words", apart(4), "st.global.u32 [%o], %v0;\n", {0, 4, 0, 0});
  access("st of a word a sector", apart(32), "st.global.u32 [%o], %v0;\n", {0, 32, 0, 0});
}

void banks() {
  const std::string store = "st.shared.u32 [%s], %v0;\n", four = "st.shared.v4.u32 [%s], {%v0, %v1, %v2, %v3};\n";
  access("st of neighbouring words in banks", apart(4), store, {0, 0, 1, 1});
  access("st of every second word in banks", apart(8), store, {0, 0, 2, 1});
  access("st of every fourth word in banks", apart(16), store, {0, 0, 4, 1});
  access("st of one bank", apart(128), store, {0, 0, 32, 1});
  access("st of padded rows", apart(132), store, {0, 0, 1, 1});
  access("st of one word", together, store, {0, 0, 1, 1});
  access("st of half the lanes in one bank", apart(128), half + "@%p " + store, {0, 0, 16, 1});
  access("st of neighbouring twos", apart(8), "st.shared.v2.u32 [%s], {%v0, %v1};\n", {0, 0, 2, 2});
  access("st of neighbouring fours", apart(16), four, {0, 0, 4, 4});
  access("st of fours two apart", apart(32), four, {0, 0, 8, 4});
  const std::string load = "ld.shared.v4.u32 {%v0, %v1, %v2, %v3}, [%s];\n";
  access("ld of a's of a product", byEight, load, {0, 0, 4, 4});
  access("ld of b's of a product", inEight, load, {0, 0, 4, 4});
}

void asynchronous() {
  const auto copy = [](const char *kind, const char *bytes) {
    return std::string("cp.async.") + kind + ".shared.global [%s], [%g], " + bytes + ";\ncp.async.wait_all;\n";
  };
  access("cp.async of neighbouring words", apart(4), copy("ca", "4"), {4, 0, 1, 1});
  access("cp.async of words a row apart", apart(128), copy("ca", "4"), {32, 0, 32, 1});
  access("cp.async of neighbouring fours", apart(16), copy("cg", "16"), {16, 0, 4, 4});
  // the upper lanes read nothing, and write zeros
  access("cp.async of zeros", apart(4) + half, "selp.u32 %z, 4, 0, %p;\n" + copy("ca", "4, %z"), {2, 0, 1, 1});
}

} // namespace

void counters() {
  sectors();
  banks();
  asynchronous();
}

} // namespace optest
