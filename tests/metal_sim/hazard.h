// Which commands may run at once, and whether two of them touch the same memory.
#pragma once
#include <string>
#include <vector>

#include "resource.h"

namespace sim {

struct Access {
  const char* begin;
  const char* end;
  bool writes, tracked;
  const Buffer* buffer;  // for a barrier on named resources
  std::string what;      // the kernel and the argument
  long encoder = 0, command_buffer = 0;
};

// The range of a bound buffer, from its offset. Of a no-copy buffer, whose operands share a page
// window, only the place where the operand begins is taken: two operands never begin at the same
// place.
Access access_to(const Buffer* buffer, size_t offset, bool writes, std::string what);

// The accesses that later commands are not ordered after; one for each queue.
class Hazards {
 public:
  void begin_encoder(long command_buffer, bool concurrent);
  // A barrier between the commands before and after it, on everything or on the resources named.
  void barrier(const std::vector<const Buffer*>* resources);
  // Reports each pair of unordered accesses of which one writes; returns the first report.
  std::string dispatch(std::vector<Access> accesses);
  // The accesses up to this encoder happen before whatever follows: a fence or an event.
  void ordered_up_to(long encoder);
  // The client saw these command buffers complete before it committed the next.
  void completed(long command_buffer);
  long encoder() const { return encoder_; }

 private:
  std::vector<Access> open_;
  long encoder_ = 0, command_buffer_ = 0;
  bool concurrent_ = false;
};

}  // namespace sim
