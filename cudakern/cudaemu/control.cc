#include "control.h"

#include <fstream>
#include <sstream>
#include <sys/stat.h>

namespace emu {

namespace {

bool apply(BoardState &b, const std::string &key, long long value) {
  if (key == "temperature") b.temperature = unsigned(value);
  else if (key == "power") b.milliwatts = unsigned(value);
  else if (key == "utilisation") b.utilisation = unsigned(value);
  else if (key == "throttle") b.throttle = (unsigned long long)value;
  else if (key == "ecc") b.uncorrected = (unsigned long long)value;
  else if (key == "corrected") b.corrected = (unsigned long long)value;
  else if (key == "nvlinks") b.nvlinks = unsigned(value);
  else if (key == "xid") b.xids.push_back(int(value));
  else if (key == "lost") b.lost = value != 0;
  else return false;
  return true;
}

} // namespace

bool Control::refresh(const std::string &path) {
  struct stat s;
  if (path.empty() || stat(path.c_str(), &s) != 0) return false;
  std::string now = std::to_string(s.st_size) + " " + std::to_string(s.st_mtim.tv_sec) + "." +
                    std::to_string(s.st_mtim.tv_nsec) + " " + std::to_string(s.st_ino);
  if (now == seen) return false;
  std::ifstream file(path);
  std::string line;
  boards.clear();
  firstWrong.clear();
  while (std::getline(file, line)) {
    if (file.eof()) break; // a line that is being written; it counts when it ends
    std::istringstream words(line);
    std::string key, number;
    int board = 0;
    if (line.empty() || line[0] == '#') continue;
    char *end = nullptr;
    bool good = bool(words >> board >> key >> number);
    long long value = good ? strtoll(number.c_str(), &end, 0) : 0;
    if ((!good || *end || !apply(boards[board], key, value)) && firstWrong.empty()) firstWrong = line;
  }
  seen = now;
  return true;
}

BoardState Control::board(int number) const {
  auto at = boards.find(number);
  return at == boards.end() ? BoardState() : at->second;
}

} // namespace emu
