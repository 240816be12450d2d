// The devices of the simulated Mac.
#pragma once
#include "resource.h"

namespace sim {

struct Device : Labelled {
  static constexpr const char* kName = "MTLDevice";
  bool low_power = false, removable = false, headless = false;
  unsigned long registry = 0;
};

}  // namespace sim
