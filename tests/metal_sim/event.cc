// MTLSharedEvent, which stands for MTLEvent too, and MTLFence.
#include "event.h"

#include <chrono>

#include "command.h"

namespace sim {

void SharedEvent::signal(unsigned long to, long after) {
  {
    std::lock_guard hold(lock);
    value = to;
    encoder = after;
  }
  changed.notify_all();
}
bool SharedEvent::wait(unsigned long to, unsigned long milliseconds) {
  std::unique_lock hold(lock);
  return changed.wait_for(hold, std::chrono::milliseconds(std::min(milliseconds, 600000ul)),
                          [&] { return value >= to; });
}

namespace {

struct EventMessages : SharedEvent {
  unsigned long get() {
    std::lock_guard hold(lock);
    return value;
  }
  void put(unsigned long to) { signal(to, encoder); }
  Device* device() { return owner; }
};
const auto event_class = Define<SharedEvent>("_Labelled")
                             .on<&EventMessages::get>("signaledValue")
                             .on<&EventMessages::put>("setSignaledValue:")
                             .on<&SharedEvent::wait>("waitUntilSignaledValue:timeoutMS:")
                             .on<&EventMessages::device>("device");
struct FenceMessages : Fence {
  Device* device() { return owner; }
};
const auto fence_class = Define<Fence>("_Labelled").on<&FenceMessages::device>("device");

}  // namespace
}  // namespace sim
