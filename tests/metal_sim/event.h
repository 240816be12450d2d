// Events that order command buffers, and the host with them.
#pragma once
#include <condition_variable>
#include <mutex>

#include "resource.h"

namespace sim {

struct SharedEvent : Labelled {
  static constexpr const char* kName = "MTLSharedEvent";
  Device* owner = nullptr;
  std::mutex lock;
  std::condition_variable changed;
  unsigned long value = 0;
  long encoder = 0;  // the last one before the signal
  void signal(unsigned long to, long after);
  bool wait(unsigned long to, unsigned long milliseconds);
};

}  // namespace sim
