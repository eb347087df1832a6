#include "settings.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emu {

namespace {

std::vector<std::string> split(const std::string &text, char at) {
  std::vector<std::string> parts;
  size_t from = 0;
  for (size_t to; (to = text.find(at, from)) != std::string::npos; from = to + 1)
    parts.push_back(text.substr(from, to - from));
  parts.push_back(text.substr(from));
  return parts;
}

bool number(const std::string &text, long long least, long long most, long long &out) {
  errno = 0;
  char *end = nullptr;
  out = strtoll(text.c_str(), &end, 0);
  return !text.empty() && *end == 0 && errno == 0 && out >= least && out <= most;
}

// Reader collects the first complaint, so that each variable is one line below.
struct Reader {
  std::string wrong;

  const char *text(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : nullptr;
  }
  void complain(const char *name, const std::string &value, const char *wanted) {
    if (wrong.empty()) wrong = std::string(name) + "=" + value + ": want " + wanted;
  }
  template <class T> void integer(const char *name, long long least, long long most, const char *wanted, T &out) {
    const char *value = text(name);
    if (!value) return;
    long long n;
    if (number(value, least, most, n)) out = T(n);
    else complain(name, value, wanted);
  }
};

// visibleBoards follows the driver: numbers or UUIDs, and the first that names no board ends the list.
std::vector<int> visibleBoards(const char *list, int devices) {
  std::vector<int> boards;
  if (!list) {
    for (int i = 0; i < devices; i++) boards.push_back(i);
    return boards;
  }
  for (const std::string &name : split(list, ',')) {
    int board = -1;
    long long n;
    if (number(name, 0, devices - 1, n)) board = int(n);
    for (int i = 0; i < devices && board < 0; i++)
      if (name.size() > 4 && uuidText(i).compare(0, name.size(), name) == 0) board = i;
    bool seen = false;
    for (int b : boards) seen |= b == board;
    if (board < 0 || seen) break;
    boards.push_back(board);
  }
  return boards;
}

bool parseFailures(const std::string &list, std::vector<Injection> &out) {
  for (const std::string &item : split(list, ',')) {
    std::vector<std::string> parts = split(item, ':');
    Injection f;
    long long nth = 0, error = 0;
    if (parts.size() != 3 || parts[0].empty()) return false;
    f.call = parts[0];
    if (!parts[1].empty() && parts[1].back() == '+') {
      f.onwards = true;
      parts[1].pop_back();
    }
    if (!number(parts[1], 1, 1LL << 40, nth) || !number(parts[2], 1, 999, error)) return false;
    f.nth = long(nth);
    f.error = int(error);
    out.push_back(f);
  }
  return true;
}

bool parseLosses(const std::string &list, int devices, std::vector<Loss> &out) {
  for (const std::string &item : split(list, ',')) {
    std::vector<std::string> parts = split(item, ':');
    long long device = 0, launch = 1;
    if (parts.size() > 2 || !number(parts[0], 0, devices - 1, device)) return false;
    if (parts.size() == 2 && !number(parts[1], 1, 1LL << 40, launch)) return false;
    out.push_back({int(device), long(launch)});
  }
  return true;
}

} // namespace

std::string readSettings(Settings &out) {
  Reader r;
  r.integer("CUDAEMU_DEVICES", 0, 64, "a number of devices, 0 to 64", out.devices);
  r.integer("CUDAEMU_MEMORY", 1, 1LL << 44, "bytes a device", out.memory);
  r.integer("CUDAEMU_DRIVER", 1000, 99990, "a driver version such as 12000", out.driver);
  r.integer("CUDAEMU_THREADS", 1, 256, "threads a kernel, 1 to 256", out.threads);
  r.integer("CUDAEMU_COUNTS_DETAIL", 0, 1, "0 or 1", out.countsDetail);
  r.integer("CUDAEMU_PEER", 0, 1, "0 or 1", out.peer);
  if (r.text("CUDAEMU_SEED")) {
    out.shuffled = true;
    r.integer("CUDAEMU_SEED", 0, INT64_MAX, "a number", out.seed);
  }
  if (const char *level = r.text("CUDAEMU_CHECK")) {
    if (!strcmp(level, "off")) out.checks = Check::Off;
    else if (!strcmp(level, "bounds")) out.checks = Check::Bounds;
    else if (!strcmp(level, "full")) out.checks = Check::Full;
    else r.complain("CUDAEMU_CHECK", level, "off, bounds or full");
  }
  if (const char *list = r.text("CUDAEMU_CC")) {
    out.capability.clear();
    for (const std::string &item : split(list, ',')) {
      long long n = 0;
      if (!number(item, 30, 129, n)) r.complain("CUDAEMU_CC", list, "compute capabilities such as 80 or 80,70");
      out.capability.push_back(int(n));
    }
  }
  if (const char *list = r.text("CUDAEMU_FAIL"))
    if (!parseFailures(list, out.failures)) r.complain("CUDAEMU_FAIL", list, "call:nth:error, nth+ from there on");
  if (const char *list = r.text("CUDAEMU_LOST"))
    if (!parseLosses(list, out.devices, out.losses)) r.complain("CUDAEMU_LOST", list, "board or board:launch");
  if (const char *path = r.text("CUDAEMU_COUNTS")) out.counts = path;
  if (const char *path = r.text("CUDAEMU_CONTROL")) out.control = path;
  out.visible = visibleBoards(getenv("CUDA_VISIBLE_DEVICES"), out.devices);
  return r.wrong;
}

void uuidOf(int board, unsigned char out[16]) {
  static const unsigned char base[16] = {0xe0, 0x1a, 0x7e, 0xd0, 0xc0, 0x10, 0x4a, 0xde,
                                         0x8e, 0x0d, 0xe0, 0x1c, 0xe0, 0x00, 0x00, 0x00};
  memcpy(out, base, 16);
  out[0] = (unsigned char)(out[0] + board); // a prefix names a board, as it does on real machines
  out[15] = (unsigned char)board;
}

std::string uuidText(int board) {
  unsigned char u[16];
  uuidOf(board, u);
  std::string text = "GPU-";
  char hex[3];
  for (int i = 0; i < 16; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    snprintf(hex, sizeof hex, "%02x", u[i]);
    text += hex;
  }
  return text;
}

std::string boardName(const Settings &s, int board) {
  return "Emulated GPU sm_" + std::to_string(s.capabilityOf(board));
}

std::string busId(int board) {
  char text[24];
  snprintf(text, sizeof text, "0000:%02x:00.0", busOf(board));
  return text;
}

} // namespace emu
