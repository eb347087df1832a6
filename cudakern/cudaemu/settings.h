// What the environment asks of the emulator, read once by cuInit (and by the NVML half on its own).
#pragma once

#include "memory.h"

#include <cstdint>
#include <string>
#include <vector>

namespace emu {

// An error that a call is told to return: the nth call of that name, or every one from the nth on.
struct Injection {
  std::string call; // as exported, or without its version suffix
  long nth = 1;
  bool onwards = false;
  int error = 0;
};

// A device that is lost: from its nth kernel launch on, or when the control file says so.
struct Loss {
  int device = 0;
  long launch = 1;
};

struct Settings {
  int devices = 2;
  std::vector<int> visible;         // boards, in the order CUDA_VISIBLE_DEVICES gives
  size_t memory = size_t(2) << 30;  // bytes a device
  Check checks = Check::Bounds;
  bool shuffled = false;            // CUDAEMU_SEED is set
  uint64_t seed = 0;
  std::vector<int> capability{80};  // by board; the last one holds for the rest
  int driver = 12000;
  bool peer = true;
  int threads = 1;
  std::string counts;               // where instruction counts go, empty: nowhere; %p is the process's number
  bool countsDetail = false;        // sectors and bank passes too
  std::string control;              // a file that is read again whenever it changes, see control.h
  std::vector<Injection> failures;
  std::vector<Loss> losses;

  int capabilityOf(int board) const {
    return capability[size_t(board) < capability.size() ? size_t(board) : capability.size() - 1];
  }
};

// readSettings fills the settings from the environment. It gives "" or what is wrong with which variable.
std::string readSettings(Settings &out);

// uuidOf gives the 16 bytes by which CUDA and NVML both know a board.
void uuidOf(int board, unsigned char out[16]);
// uuidText gives them as "GPU-8-4-4-4-12" hexadecimal digits.
std::string uuidText(int board);
// boardName gives what both call it, "Emulated GPU sm_80".
std::string boardName(const Settings &s, int board);
// busId gives a board's place on the PCI bus, "0000:10:00.0" for the first.
std::string busId(int board);
constexpr int busOf(int board) { return 0x10 + board; }

} // namespace emu
