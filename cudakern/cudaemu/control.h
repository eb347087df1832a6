// The control file: what happens to boards while programs run. One line each, numbers from 0 as NVML counts:
//
//   BOARD temperature DEGREES | power MILLIWATTS | utilisation PERCENT | throttle MASK | ecc UNCORRECTED |
//         corrected N | nvlinks N | xid NUMBER | lost 1
//
// Every xid line is one event, in order; tests append lines. Both libraries read the file again when it has changed.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace emu {

struct BoardState {
  unsigned temperature = 41, milliwatts = 71000, utilisation = 0, nvlinks = 0;
  unsigned long long throttle = 0, uncorrected = 0, corrected = 0;
  bool lost = false;
  std::vector<int> xids;
};

class Control {
public:
  // refresh reads the file again if it has changed; true if so. A file that is not there says nothing.
  bool refresh(const std::string &path);
  BoardState board(int number) const;
  // wrong is the first line that could not be understood, empty if there is none.
  const std::string &wrong() const { return firstWrong; }

private:
  std::string seen; // size and time of what was read
  std::map<int, BoardState> boards;
  std::string firstWrong;
};

} // namespace emu
