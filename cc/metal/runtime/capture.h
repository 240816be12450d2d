// A GPU trace for Xcode: JAX_MPS_METAL_CAPTURE=/path/to/file.gputrace records the tenth run, when
// everything is compiled. The process needs METAL_CAPTURE_ENABLED=1, too.
#pragma once

#include "device.h"

namespace jax_mps::metal {

class Capture {
 public:
  explicit Capture(Device& device);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

 private:
  bool running_ = false;
};

}  // namespace jax_mps::metal
