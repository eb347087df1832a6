// Between lanes: shfl vote match redux mma, activemask; cp.async.
#include <cmath>

#include "optest.h"

namespace optest {

namespace {

std::string text(long n) { return std::to_string(n); }

const std::string lanesHead =
    ".reg .b32 %r<12>, %i;\n.reg .b64 %d<6>, %a, %o, %w;\n.reg .f32 %f<20>;\n.reg .pred %p<6>;\n"
    "mov.u32 %i, %tid.x;\nmul.wide.u32 %w, %i, 4;\nadd.s64 %a, %in, %w;\nadd.s64 %o, %out, %w;\n";

std::vector<uint32_t> values() {
  std::vector<uint32_t> v(32);
  for (uint32_t i = 0; i < 32; i++) v[i] = i * 0x01000193 ^ 0x811C9DC5;
  return v;
}

// The manual's code for shfl, for one lane.
uint32_t shuffled(const std::string &mode, int lane, int b, int c, const std::vector<uint32_t> &v, bool *in) {
  const int segment = c >> 8 & 31, clamp = c & 31, bval = b & 31;
  const int maxLane = (lane & segment) | (clamp & ~segment), minLane = lane & segment;
  int j = lane;
  bool p = false;
  if (mode == "up") j = lane - bval, p = j >= maxLane;
  else if (mode == "down") j = lane + bval, p = j <= maxLane;
  else if (mode == "bfly") j = lane ^ bval, p = j <= maxLane;
  else j = minLane | (bval & ~segment), p = j <= maxLane;
  if (!p) j = lane;
  *in = p;
  return v[(size_t)j];
}

void shuffles() {
  for (const std::string mode : {"up", "down", "bfly", "idx"}) {
    covered("shfl.sync." + mode + ".b32");
    for (const int width : {32, 16, 8, 2})
      for (const int b : {0, 1, 3, 7, 16, 31}) {
        const int c = (32 - width) << 8 | (mode == "up" ? 0 : 31);
        Run r;
        r.in = values();
        r.out.assign(64, 9);
        r.body = lanesHead + "ld.global.u32 %r0, [%a];\nshfl.sync." + mode + ".b32 %r1|%p0, %r0, " + text(b) + ", " +
                 text(c) + ", -1;\nselp.u32 %r2, 1, 0, %p0;\nst.global.u32 [%o], %r1;\nst.global.u32 [%o+128], %r2;\n";
        std::vector<uint32_t> want(64);
        for (int l = 0; l < 32; l++) {
          bool in;
          want[(size_t)l] = shuffled(mode, l, b, c, r.in, &in);
          want[(size_t)l + 32] = in;
        }
        const std::string what = "shfl.sync." + mode + " " + text(b) + " of " + text(width);
        clean(r, what);
        same(r.out, want, what);
      }
  }
  // the result may be the register it is read from, and lanes may come one by one
  Run r;
  r.in = values();
  r.out.assign(32, 0);
  r.body = lanesHead + "ld.global.u32 %r0, [%a];\nsetp.lt.u32 %p0, %i, 7;\n@%p0 bra A;\nadd.s32 %r0, %r0, 1;\nbra "
                       "B;\nA:\nadd.s32 %r0, %r0, 2;\nB:\n"
                       "shfl.sync.idx.b32 %r0, %r0, %i, 0x1f, -1;\nsub.s32 %r1, 31, %i;\nshfl.sync.idx.b32 %r0, %r0, "
                       "%r1, 31, 0xffffffff;\nst.global.u32 [%o], %r0;\n";
  std::vector<uint32_t> want(32);
  for (size_t l = 0; l < 32; l++) want[l] = r.in[31 - l] + (31 - l < 7 ? 2 : 1);
  clean(r, "shfl in place");
  same(r.out, want, "shfl in place");
  // halves of a warp that shuffle apart from each other
  Run h;
  h.in = values();
  h.out.assign(32, 0);
  h.body = lanesHead + "ld.global.u32 %r0, [%a];\nsetp.lt.u32 %p0, %i, 16;\n@%p0 bra A;\nshfl.sync.bfly.b32 %r1, %r0, "
                       "1, 31, 0xffff0000;\nbra B;\n"
                       "A:\nshfl.sync.bfly.b32 %r1, %r0, 2, 31, 0x0000ffff;\nB:\nst.global.u32 [%o], %r1;\n";
  for (size_t l = 0; l < 32; l++) want[l] = h.in[l ^ (l < 16 ? 2 : 1)];
  clean(h, "shfl of halves");
  same(h.out, want, "shfl of halves");
}

void votes() {
  for (const uint32_t set : {0u, ~0u, 1u, 0x80000000u, 0x0F0F1234u}) {
    Run r;
    r.in.assign(32, 0);
    for (int l = 0; l < 32; l++) r.in[(size_t)l] = set >> l & 1;
    r.out.assign(32 * 8, 0);
    r.body = lanesHead +
             "ld.global.u32 %r0, [%a];\nsetp.ne.u32 %p0, %r0, 0;\n"
             "vote.sync.all.pred %p1, %p0, -1;\nvote.sync.any.pred %p2, %p0, -1;\nvote.sync.uni.pred %p3, %p0, -1;\n"
             "vote.sync.ballot.b32 %r4, %p0, -1;\nselp.u32 %r1, 1, 0, %p1;\nselp.u32 %r2, 1, 0, %p2;\nselp.u32 %r3, 1, "
             "0, %p3;\n"
             "vote.sync.all.pred %p4, !%p0, -1;\nselp.u32 %r5, 1, 0, %p4;\nmatch.any.sync.b32 %r6, %r0, -1;\n"
             "cvt.u64.u32 %d0, %r0;\nmatch.any.sync.b64 %r8, %d0, -1;\n"
             "match.all.sync.b32 %r7|%p5, %r0, -1;\nselp.u32 %r9, 1, 0, %p5;\nadd.s32 %r7, %r7, "
             "%r9;\nmatch.all.sync.b64 %r9|%p5, %d0, -1;\nsub.s32 %r8, %r8, %r6;\nadd.s32 %r7, %r7, %r8;\n";
    for (int k = 1; k <= 7; k++) r.body += "st.global.u32 [%o+" + text(128 * k) + "], %r" + text(k) + ";\n";
    r.body += "st.global.u32 [%o], %r9;\n";
    std::vector<uint32_t> want(32 * 8);
    const bool uniform = set == 0 || set == ~0u;
    for (int l = 0; l < 32; l++) {
      const auto at = [&](int k) -> uint32_t & { return want[(size_t)(32 * k + l)]; };
      at(0) = uniform ? ~0u : 0;
      at(1) = set == ~0u, at(2) = set != 0, at(3) = uniform, at(4) = set, at(5) = set == 0;
      at(6) = set >> l & 1 ? set : ~set;
      at(7) = uniform ? ~0u + 1 : 0;
    }
    clean(r, "vote and match");
    same(r.out, want, "vote and match of " + text(set));
  }
  for (const char *o : {"vote.sync.all.pred", "vote.sync.any.pred", "vote.sync.uni.pred", "vote.sync.ballot.b32",
           "match.any.sync.b32", "match.any.sync.b64", "match.all.sync.b32", "match.all.sync.b64", "activemask.b32"})
    covered(o);
  Run r;
  r.out.assign(32, 0);
  r.body = lanesHead + "mov.u32 %r0, 0;\nsetp.lt.u32 %p0, %i, 5;\n@%p0 bra A;\nbra B;\nA:\nactivemask.b32 "
                       "%r0;\nB:\nst.global.u32 [%o], %r0;\n";
  std::vector<uint32_t> want(32, 0);
  for (int l = 0; l < 5; l++) want[(size_t)l] = 31;
  clean(r, "activemask");
  same(r.out, want, "activemask");

  const auto reduce = [](const std::string &op, std::function<int64_t(int64_t, int64_t)> f, bool isSigned) {
    Run r;
    r.in = values();
    r.out.assign(32, 0);
    r.body = lanesHead + "ld.global.u32 %r0, [%a];\nredux.sync." + op + " %r1, %r0, -1;\nst.global.u32 [%o], %r1;\n";
    const auto v = [&](size_t l) { return isSigned ? (int64_t)(int32_t)r.in[l] : (int64_t)r.in[l]; };
    int64_t all = v(0);
    for (size_t l = 1; l < 32; l++) all = f(all, v(l));
    clean(r, "redux " + op);
    same(r.out, std::vector<uint32_t>(32, (uint32_t)all), "redux " + op);
    covered("redux.sync." + op);
  };
  reduce("add.u32", [](int64_t a, int64_t b) { return a + b; }, false);
  reduce("add.s32", [](int64_t a, int64_t b) { return a + b; }, true);
  reduce("min.u32", [](int64_t a, int64_t b) { return std::min(a, b); }, false);
  reduce("max.u32", [](int64_t a, int64_t b) { return std::max(a, b); }, false);
  reduce("min.s32", [](int64_t a, int64_t b) { return std::min(a, b); }, true);
  reduce("max.s32", [](int64_t a, int64_t b) { return std::max(a, b); }, true);
  reduce("and.b32", [](int64_t a, int64_t b) { return a & b; }, false);
  reduce("or.b32", [](int64_t a, int64_t b) { return a | b; }, false);
  reduce("xor.b32", [](int64_t a, int64_t b) { return a ^ b; }, false);
}

// mma.sync on matrices of small integers, whose products and sums are exact in any order.
void matrices() {
  for (const int K : {8, 4}) {
    Run r;
    r.in.assign((size_t)(16 * K + K * 8 + 16 * 8), 0);
    std::vector<double> m(r.in.size());
    for (size_t i = 0; i < m.size(); i++) {
      m[i] = (double)((long)(i * 37 % 61) - 30);
      r.in[i] = (uint32_t)bits((float)m[i]) | (i < (size_t)(24 * K) ? 0x0FFF : 0); // low bits of tf32 are dropped
    }
    r.out.assign(128, 0);
    // from the manual's figures: a[row][col], row = lane/4 (+8), col = lane%4 (+4); b[row][col], row = lane%4 (+4),
    // col = lane/4
    r.body = lanesHead + "shr.u32 %r0, %i, 2;\nand.b32 %r1, %i, 3;\n";
    const int aRegs = K / 2, bRegs = K / 4;
    const auto load = [&](const std::string &f, long base, const std::string &row, long rowAdd, const std::string &col,
                          long colAdd, long pitch) {
      r.body += "mad.lo.s32 %r2, " + row + ", " + text(pitch) + ", " + col + ";\nadd.s32 %r2, %r2, " +
                text(base + rowAdd * pitch + colAdd) +
                ";\nmul.wide.u32 %d0, %r2, 4;\nadd.s64 %d0, %in, %d0;\nld.global.f32 " + f + ", [%d0];\n";
    };
    std::string a, b, c, d;
    for (int k = 0; k < aRegs; k++) {
      load("%f" + text(4 + k), 0, "%r0", k % 2 ? 8 : 0, "%r1", k / 2 * 4, K);
      a += (k ? ", " : "") + std::string("%x") + text(k);
    }
    for (int k = 0; k < bRegs; k++) {
      load("%f" + text(8 + k), 16 * K, "%r1", 4 * k, "%r0", 0, 8);
      b += (k ? ", " : "") + std::string("%y") + text(k);
    }
    r.body += ".reg .b32 %x<4>, %y<2>, %r77;\nshl.b32 %r3, %r1, 1;\n";
    for (int k = 0; k < aRegs; k++) r.body += "mov.b32 %x" + text(k) + ", %f" + text(4 + k) + ";\n";
    for (int k = 0; k < bRegs; k++) r.body += "mov.b32 %y" + text(k) + ", %f" + text(8 + k) + ";\n";
    for (int k = 0; k < 4; k++) {
      load("%f" + text(12 + k), 24 * K, "%r0", k / 2 * 8, "%r3", k % 2, 8);
      c += (k ? ", " : "") + std::string("%f") + text(12 + k);
      d += (k ? ", " : "") + std::string("%f") + text(k);
    }
    const std::string name = "mma.sync.aligned.m16n8k" + text(K) + ".row.col.f32.tf32.tf32.f32";
    r.body += name + " {" + d + "}, {" + a + "}, {" + b + "}, {" + c + "};\n";
    for (int k = 0; k < 4; k++)
      r.body += "mad.lo.s32 %r2, %r0, 8, %r3;\nadd.s32 %r2, %r2, " + text(k / 2 * 64 + k % 2) +
                ";\nmul.wide.u32 %d0, %r2, 4;\nadd.s64 %d0, %out, %d0;\nst.global.f32 [%d0], %f" + text(k) + ";\n";
    std::vector<uint32_t> want(128);
    for (int row = 0; row < 16; row++)
      for (int col = 0; col < 8; col++) {
        double sum = m[(size_t)(24 * K + row * 8 + col)];
        for (int k = 0; k < K; k++) sum += m[(size_t)(row * K + k)] * m[(size_t)(16 * K + k * 8 + col)];
        want[(size_t)(row * 8 + col)] = (uint32_t)bits((float)sum);
      }
    clean(r, name);
    same(r.out, want, name);
    covered(name);
  }
}

void asynchronous() {
  for (const std::string how : {"ca", "cg"})
    for (const int size : {4, 8, 16})
      for (const int valid : {-1, 0, 3}) {
        if (valid > size) continue;
        Run r;
        r.in.assign((size_t)(32 * size / 4), 0);
        for (size_t i = 0; i < r.in.size(); i++) r.in[i] = (uint32_t)(i * 0x9E3779B9u + 0x01020304);
        r.out.assign(r.in.size(), 1);
        const std::string n = text(size);
        r.body = lanesHead + ".shared .align 16 .b8 sm[512];\nmul.wide.u32 %d0, %i, " + n +
                 ";\nadd.s64 %d1, %in, %d0;\nmov.u32 %r0, sm;\nmad.lo.s32 %r0, %i, " + n + ", %r0;\ncp.async." + how +
                 ".shared.global [%r0], [%d1], " + n + (valid >= 0 ? ", " + text(valid) : "") +
                 ";\n"
                 "cp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\nadd.s64 %d3, %out, %d0;\n";
        for (int b = 0; b < size; b += 4)
          r.body += "ld.shared.u32 %r1, [%r0+" + text(b) + "];\nst.global.u32 [%d3+" + text(b) + "], %r1;\n";
        std::vector<uint32_t> want = r.in;
        if (valid >= 0)
          for (int l = 0; l < 32; l++)
            for (int b = 0; b < size; b++)
              if (b >= valid) want[(size_t)(l * size + b) / 4] &= ~(0xFFu << 8 * (b % 4));
        const std::string what = "cp.async." + how + " of " + n + " bytes, " + text(valid) + " valid";
        clean(r, what);
        same(r.out, want, what);
      }
  // two groups in flight: the older is there when one may be left
  Run r;
  r.in.assign(64, 0);
  for (uint32_t i = 0; i < 64; i++) r.in[i] = i + 100;
  r.out.assign(64, 1);
  r.body = lanesHead + ".shared .align 16 .b8 sm[256];\nmov.u32 %r0, sm;\nmad.lo.s32 %r0, %i, 4, "
                       "%r0;\ncp.async.ca.shared.global [%r0], [%a], 4;\ncp.async.commit_group;\n"
                       "cp.async.ca.shared.global [%r0+128], [%a+128], 4;\ncp.async.commit_group;\ncp.async.wait_group "
                       "1;\nld.shared.u32 %r1, [%r0];\nst.global.u32 [%o], %r1;\n"
                       "cp.async.wait_all;\nld.shared.u32 %r1, [%r0+128];\nst.global.u32 [%o+128], %r1;\n";
  clean(r, "two groups");
  same(r.out, r.in, "two groups");
  for (const char *o : {"cp.async.ca.shared.global", "cp.async.cg.shared.global", "cp.async.ca.shared.global.L2::64B",
           "cp.async.ca.shared.global.L2::128B", "cp.async.ca.shared.global.L2::256B", "cp.async.commit_group",
           "cp.async.wait_group", "cp.async.wait_all"})
    covered(o);
}

} // namespace

void warpOps() {
  shuffles();
  votes();
  matrices();
  asynchronous();
}

} // namespace optest
