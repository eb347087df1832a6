#include "counts.h"

#include <cstdio>

namespace emu {

const char *className(Class c) {
  static const char *const names[classes] = {"ffma", "float", "double", "special", "integer", "convert", "move",
      "compare", "ld.global", "st.global", "ld.shared", "st.shared", "local", "const", "atomic", "cp.async", "mma",
      "shuffle", "sync", "control"};
  return names[(int)c];
}

void Tally::add(const Tally &t) {
  launches += t.launches;
  blocks += t.blocks;
  threads += t.threads;
  for (int c = 0; c < classes; c++) {
    warp[c] += t.warp[c];
    thread[c] += t.thread[c];
    bytes[c] += t.bytes[c];
  }
  sectorsLoaded += t.sectorsLoaded;
  sectorsStored += t.sectorsStored;
  sharedPasses += t.sharedPasses;
  sharedPassesIdeal += t.sharedPassesIdeal;
}

void Counts::add(const std::string &kernel, const std::string &shape, const Tally &t) {
  std::lock_guard<std::mutex> hold(lock);
  tallies[kernel][shape].add(t);
}

std::map<std::string, std::map<std::string, Tally>> Counts::all() const {
  std::lock_guard<std::mutex> hold(lock);
  return tallies;
}

std::string Counts::json() const {
  const auto everything = all();
  const auto number = [](uint64_t n) { return std::to_string(n); };
  const auto quoted = [](const std::string &s) { // names of kernels and shapes have nothing to escape but by malice
    std::string out = "\"";
    for (char c : s) {
      if (c == '"' || c == '\\') out += '\\';
      if ((unsigned char)c >= 32) out += c;
    }
    return out + "\"";
  };
  const auto object = [&](const std::array<uint64_t, classes> &of) {
    std::string out = "{";
    for (int c = 0; c < classes; c++)
      if (of[c]) out += (out.size() > 1 ? ", " : "") + quoted(className((Class)c)) + ": " + number(of[c]);
    return out + "}";
  };
  std::string out = "{";
  bool firstKernel = true;
  for (const auto &[kernel, shapes] : everything) {
    out += (firstKernel ? "\n" : ",\n") + quoted(kernel) + ": {";
    firstKernel = false;
    bool firstShape = true;
    for (const auto &[shape, t] : shapes) {
      out += (firstShape ? "\n  " : ",\n  ") + quoted(shape) + ": {\"launches\": " + number(t.launches) +
             ", \"blocks\": " + number(t.blocks) + ", \"threads\": " + number(t.threads) +
             ",\n    \"warp\": " + object(t.warp) + ",\n    \"thread\": " + object(t.thread) +
             ",\n    \"bytes\": " + object(t.bytes) + ",\n    \"sectors_loaded\": " + number(t.sectorsLoaded) +
             ", \"sectors_stored\": " + number(t.sectorsStored) + ", \"shared_passes\": " + number(t.sharedPasses) +
             ", \"shared_passes_ideal\": " + number(t.sharedPassesIdeal) + "}";
      firstShape = false;
    }
    out += "}";
  }
  return out + "\n}\n";
}

bool Counts::write(const std::string &path) const {
  FILE *f = fopen(path.c_str(), "w");
  if (!f) return false;
  const std::string text = json();
  const bool ok = fwrite(text.data(), 1, text.size(), f) == text.size();
  return fclose(f) == 0 && ok;
}

} // namespace emu
