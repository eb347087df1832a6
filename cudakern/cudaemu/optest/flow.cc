// Control: branches that diverge and meet again, loops, tables, calls, barriers, registers of the launch.
#include "optest.h"

namespace optest {

namespace {

const std::string head = ".reg .b32 %r<12>, %i, %n;\n.reg .b64 %d<6>, %a, %o, %w;\n.reg .pred %p<6>;\n"
    "mov.u32 %i, %tid.x;\nmov.u32 %n, %ctaid.x;\nmov.u32 %r0, %ntid.x;\nmad.lo.s32 %n, %n, %r0, %i;\n"
    "mul.wide.u32 %w, %n, 4;\nadd.s64 %a, %in, %w;\nadd.s64 %o, %out, %w;\n";

void branches() {
  // Collatz: every lane loops as often as its own number needs; all meet behind the loop
  Run r;
  r.block = {64, 1, 1};
  r.out.assign(64, 0);
  r.body =
      head +
      "mov.u32 %r1, 0;\nadd.s32 %r2, %i, 1;\nL:\nsetp.eq.u32 %p0, %r2, 1;\n@%p0 bra DONE;\nand.b32 %r3, %r2, "
      "1;\nsetp.eq.u32 %p1, %r3, 0;\n"
      "@%p1 bra EVEN;\nmad.lo.s32 %r2, %r2, 3, 1;\nbra NEXT;\nEVEN:\nshr.u32 %r2, %r2, 1;\nNEXT:\nadd.s32 %r1, %r1, "
      "1;\nbra.uni L;\nDONE:\n"
      "activemask.b32 %r4;\nsetp.ne.u32 %p2, %r4, -1;\n@%p2 add.s32 %r1, %r1, 1000000;\nst.global.u32 [%o], %r1;\n";
  std::vector<uint32_t> want(64);
  for (uint32_t l = 0; l < 64; l++)
    for (uint32_t n = l + 1; n != 1; want[l]++) n = n % 2 ? 3 * n + 1 : n / 2;
  clean(r, "loops");
  same(r.out, want, "loops");

  Run t; // a table of targets, as switch makes it
  t.out.assign(32, 0);
  t.body = head + "rem.u32 %r1, %i, 3;\nT: .branchtargets A, B, C;\nmov.u32 %r2, 7;\nsetp.lt.u32 %p0, %i, 30;\n@%p0 "
                  "brx.idx %r1, T;\nbra D;\nA:\nmov.u32 %r2, 10;\nbra D;\n"
                  "B:\nmov.u32 %r2, 20;\nbra D;\nC:\nmov.u32 %r2, 30;\nD:\nst.global.u32 [%o], %r2;\n";
  want.assign(32, 7);
  for (uint32_t l = 0; l < 30; l++) want[l] = 10 * (l % 3 + 1);
  clean(t, "brx.idx");
  same(t.out, want, "brx.idx");

  Run e; // lanes that end early
  e.out.assign(32, 5);
  e.body =
      head + "setp.ge.u32 %p0, %i, 11;\n@%p0 exit;\nsetp.lt.u32 %p1, %i, 3;\n@!%p1 ret.uni;\nst.global.u32 [%o], %i;\n";
  want.assign(32, 5);
  for (uint32_t l = 0; l < 3; l++) want[l] = l;
  clean(e, "exit");
  same(e.out, want, "exit");
  for (const char *o : {"ret", "exit", "ret.uni", "trap", "brkpt"}) covered(o);

  // a register that keeps its value from one turn of a loop to the next, though it is written first in the text
  Run k;
  k.out.assign(32, 0);
  k.body = head +
           "mov.u32 %r1, 0;\nL:\nsetp.ne.u32 %p0, %r1, 0;\n@%p0 bra SKIP;\nadd.s32 %r5, %i, 100;\nSKIP:\nmov.u32 %r6, "
           "77;\nadd.s32 %r7, %r6, %r5;\n"
           "mov.u32 %r8, 1;\nadd.s32 %r1, %r1, %r8;\nsetp.lt.u32 %p1, %r1, 5;\n@%p1 bra L;\nst.global.u32 [%o], %r7;\n";
  want.assign(32, 0);
  for (uint32_t l = 0; l < 32; l++) want[l] = l + 177;
  clean(k, "values across turns");
  same(k.out, want, "values across turns");
}

void calls() {
  Run r;
  r.out.assign(32, 0);
  r.declarations =
      ".func (.param .b32 ret) triple(.param .b32 x);\n"
      ".func (.param .b32 ret) triple(.param .b32 x)\n{\n.reg .b32 %r<3>;\n.reg .pred %p;\nld.param.u32 %r0, "
      "[x];\nsetp.gt.u32 %p, %r0, 20;\n"
      "@%p bra BIG;\nmul.lo.s32 %r1, %r0, 3;\nst.param.b32 [ret+0], %r1;\nret;\nBIG:\nst.param.b32 [ret+0], "
      "%r0;\nret;\n}\n"
      ".func twice(.param .b64 p)\n{\n.reg .b64 %d;\n.reg .b32 %r<3>;\nld.param.u64 %d, [p];\nld.u32 %r0, [%d];\n"
      "{ .param .b32 x0; st.param.b32 [x0+0], %r0; .param .b32 y0; call.uni (y0), triple, (x0); ld.param.b32 %r1, "
      "[y0+0]; }\n"
      "st.u32 [%d], %r1;\nret;\n}\n";
  r.body = head + "{ .param .b32 x0; st.param.b32 [x0+0], %i; .param .b32 y0; call.uni (y0), triple, (x0); "
                  "ld.param.b32 %r1, [y0+0]; }\n"
                  "st.global.u32 [%o], %r1;\n{ .param .b64 p0; st.param.b64 [p0+0], %o; call.uni twice, (p0); }\n";
  std::vector<uint32_t> want(32);
  const auto triple = [](uint32_t x) { return x > 20 ? x : 3 * x; };
  for (uint32_t l = 0; l < 32; l++) want[l] = triple(triple(l));
  clean(r, "call");
  same(r.out, want, "call");
}

void barriers() {
  // a tree over a block, with lanes that diverge between barriers
  for (const uint64_t seed : {0ull, 1ull, 7ull}) {
    Run r;
    r.seed = seed;
    r.block = {128, 1, 1};
    r.grid = {3, 1, 1};
    r.out.assign(384, 0);
    r.body = head + ".shared .align 4 .b8 sm[512];\nmov.u32 %r1, sm;\nmad.lo.s32 %r1, %i, 4, %r1;\nadd.s32 %r2, %n, "
                    "1;\nst.shared.u32 [%r1], %r2;\nbar.sync 0;\nmov.u32 %r3, 64;\nL:\n"
                    "setp.ge.u32 %p0, %i, %r3;\n@%p0 bra S;\nshl.b32 %r4, %r3, 2;\nadd.s32 %r4, %r4, "
                    "%r1;\nld.shared.u32 %r5, [%r4];\nld.shared.u32 %r6, [%r1];\nadd.s32 %r6, %r6, %r5;\n"
                    "st.shared.u32 [%r1], %r6;\nS:\nbar.sync 0;\nshr.u32 %r3, %r3, 1;\nsetp.ne.u32 %p1, %r3, 0;\n@%p1 "
                    "bra L;\nld.shared.u32 %r7, [sm];\nst.global.u32 [%o], %r7;\n";
    std::vector<uint32_t> want(384);
    for (uint32_t t = 0; t < 384; t++) want[t] = 128 * (t / 128) * 128 + 128 * 129 / 2;
    clean(r, "tree");
    same(r.out, want, "tree, seed " + std::to_string(seed));
  }
  for (const char *o :
       {"bar.sync", "bar.arrive", "bar.red.popc.u32", "bar.red.and.pred", "bar.red.or.pred", "bar.warp.sync",
        "membar.cta", "membar.gl", "membar.sys", "fence.acq_rel.cta", "fence.sc.cluster", "fence.acq_rel.gpu",
        "fence.sc.sys", "nanosleep.u32", "bar.sync.aligned", "bar.arrive.aligned"})
    covered(o);
  // lanes that loop alone, each for another time, before a barrier
  Run r;
  r.block = {64, 1, 1};
  r.out.assign(64, 0);
  r.body = head + ".shared .align 4 .b8 sm[256];\nmov.u32 %r1, %i;\nL:\nsetp.eq.u32 %p0, %r1, 0;\n@%p0 bra D;\nadd.s32 "
                  "%r1, %r1, -1;\nbra L;\nD:\n"
                  "mov.u32 %r2, sm;\nmad.lo.s32 %r2, %i, 4, %r2;\nst.shared.u32 [%r2], %i;\nmembar.cta;\nbar.sync "
                  "0;\nxor.b32 %r3, %i, 33;\nmov.u32 %r4, sm;\nmad.lo.s32 %r4, %r3, 4, %r4;\n"
                  "ld.shared.u32 %r5, [%r4];\nst.global.u32 [%o], %r5;\n";
  std::vector<uint32_t> want(64);
  for (uint32_t l = 0; l < 64; l++) want[l] = l ^ 33;
  clean(r, "loops before a barrier");
  same(r.out, want, "loops before a barrier");
  // reductions over the block
  Run v;
  v.block = {64, 1, 1};
  v.out.assign(64, 0);
  v.body = head + "setp.lt.u32 %p0, %i, 40;\nbar.red.popc.u32 %r1, 0, %p0;\nbar.red.and.pred %p1, 0, "
                  "%p0;\nbar.red.or.pred %p2, 0, %p0;\nbar.red.or.pred %p3, 1, 64, !%p0;\n"
                  "selp.u32 %r2, 100, 0, %p1;\nselp.u32 %r3, 1000, 0, %p2;\nselp.u32 %r4, 10000, 0, %p3;\nadd.s32 %r1, "
                  "%r1, %r2;\nadd.s32 %r1, %r1, %r3;\nadd.s32 %r1, %r1, %r4;\nst.global.u32 [%o], %r1;\n";
  clean(v, "bar.red");
  same(v.out, std::vector<uint32_t>(64, 11040), "bar.red");
  // one warp hands over to another: the first only arrives
  Run h;
  h.block = {64, 1, 1};
  h.out.assign(64, 3);
  h.body = head +
           ".shared .align 4 .b8 sm[128];\nmov.u32 %r1, sm;\nand.b32 %r2, %i, 31;\nmad.lo.s32 %r1, %r2, 4, "
           "%r1;\nsetp.lt.u32 %p0, %i, 32;\n@%p0 bra A;\nadd.s32 %r3, %r2, 500;\nst.shared.u32 [%r1], %r3;\n"
           "bar.arrive 1, 64;\nbra B;\nA:\nbar.sync 1, 64;\nld.shared.u32 %r4, [%r1];\nst.global.u32 [%o], %r4;\nB:\n";
  want.assign(64, 3);
  for (uint32_t l = 0; l < 32; l++) want[l] = l + 500;
  clean(h, "bar.arrive");
  same(h.out, want, "bar.arrive");
  // a lane waits in a loop for what another lane of its warp, and another warp, will write
  Run s;
  s.block = {64, 1, 1};
  s.checks = emu::Check::Bounds;
  s.out.assign(64, 0);
  s.body = head +
           ".shared .align 4 .b32 flag;\n{ .reg .pred %q; setp.eq.u32 %q, %i, 0; mov.u32 %r9, 0; @%q st.shared.u32 "
           "[flag], %r9; }\nbar.sync 0;\nsetp.eq.u32 %p0, %i, 63;\n@%p0 bra SET;\n"
           "W:\nld.volatile.shared.u32 %r1, [flag];\nnanosleep.u32 20;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 bra W;\nbra "
           "E;\nSET:\nmov.u32 %r1, 9;\nst.volatile.shared.u32 [flag], %r1;\nE:\nst.global.u32 [%o], %r1;\n";
  clean(s, "waiting in a loop");
  same(s.out, std::vector<uint32_t>(64, 9), "waiting in a loop");
}

void launchRegisters() {
  Run r;
  r.block = {4, 3, 5};
  r.grid = {2, 3, 2};
  r.dynamicShared = 64;
  r.out.assign(720 * 4, 0);
  r.declarations = ".extern .shared .align 16 .b8 dyn[];\n";
  r.body =
      ".reg .b32 %r<24>, %t;\n.reg .b64 %d<3>;\n"
      "mov.u32 %r0, %tid.x;\nmov.u32 %r1, %tid.y;\nmov.u32 %r2, %tid.z;\nmov.u32 %r3, %ctaid.x;\nmov.u32 %r4, "
      "%ctaid.y;\nmov.u32 %r5, %ctaid.z;\n"
      "mov.u32 %r6, %ntid.x;\nmov.u32 %r7, %ntid.y;\nmov.u32 %r8, %ntid.z;\nmov.u32 %r9, %nctaid.x;\nmov.u32 %r10, "
      "%nctaid.y;\n"
      "mad.lo.s32 %t, %r2, %r7, %r1;\nmad.lo.s32 %t, %t, %r6, %r0;\nmad.lo.s32 %r11, %r5, %r10, %r4;\nmad.lo.s32 %r11, "
      "%r11, %r9, %r3;\nmul.lo.s32 %r12, %r6, %r7;\nmul.lo.s32 %r12, %r12, %r8;\n"
      "mad.lo.s32 %r13, %r11, %r12, %t;\nmul.wide.u32 %d0, %r13, 16;\nadd.s64 %d1, %out, %d0;\n"
      "mov.u32 %r14, %laneid;\nmov.u32 %r15, %lanemask_lt;\nmov.u32 %r16, %warpid;\nshl.b32 %r16, %r16, 5;\nadd.s32 "
      "%r16, %r16, %r14;\nmov.u32 %r17, %dynamic_smem_size;\nmov.u32 %r18, %nwarpid;\nadd.s32 %r17, %r17, %r18;\n"
      "st.global.v4.u32 [%d1], {%r13, %r15, %r16, %r17};\n";
  std::vector<uint32_t> want(720 * 4);
  for (uint32_t t = 0; t < 720; t++) {
    const uint32_t in = t % 60;
    want[4 * t] = t, want[4 * t + 1] = (1u << in % 32) - 1, want[4 * t + 2] = in, want[4 * t + 3] = 66;
  }
  clean(r, "registers of the launch");
  same(r.out, want, "registers of the launch");
}

void counting() {
  emu::Counts counts;
  Run r;
  r.block = {48, 1, 1};
  r.grid = {2, 1, 1};
  r.out.assign(96, 0);
  r.counts = &counts;
  r.body = head + ".reg .f32 %f<3>;\nmov.u32 %r1, 0;\nmov.f32 %f0, 0f00000000;\nL:\nfma.rn.f32 %f0, %f0, %f0, "
                  "%f0;\nfma.rn.f32 %f0, %f0, %f0, %f0;\nadd.s32 %r1, %r1, 1;\nsetp.lt.u32 %p0, %r1, 10;\n@%p0 bra L;\n"
                  "setp.lt.u32 %p1, %i, 8;\n@%p1 st.global.f32 [%o], %f0;\n";
  clean(r, "counts");
  const emu::Tally t = counts.all()["k"].begin()->second;
  const auto is = [&](emu::Class c, uint64_t warp, uint64_t thread, uint64_t bytes) {
    const size_t i = (size_t)c;
    expect(t.warp[i] == warp && t.thread[i] == thread && t.bytes[i] == bytes,
           std::string("count of ") + emu::className(c) + ": " + std::to_string(t.warp[i]) + " " +
               std::to_string(t.thread[i]) + " " + std::to_string(t.bytes[i]));
  };
  is(emu::Class::Ffma, 4 * 20, 96 * 20, 0);
  is(emu::Class::StoreGlobal, 4, 16, 64);
  is(emu::Class::Compare, 4 * 11, 96 * 11, 0);
  expect(t.blocks == 2 && t.threads == 96, "blocks and threads");
  expect(counts.json().find("\"ffma\": 80") != std::string::npos, "counts as JSON: " + counts.json());
}

} // namespace

void flow() {
  branches();
  calls();
  barriers();
  launchRegisters();
  counting();
}

} // namespace optest
