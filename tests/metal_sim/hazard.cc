// Read-after-write, write-after-read and write-after-write between commands that nothing orders.
#include "hazard.h"

#include <algorithm>

#include "rule.h"

namespace sim {

Access access_to(const Buffer* buffer, size_t offset, bool writes, std::string what) {
  const char* begin = buffer->memory + offset;
  const char* end = buffer->no_copy ? begin + 1 : buffer->memory + buffer->size;
  return {begin, end, writes, buffer->tracked(), buffer, std::move(what)};
}

void Hazards::begin_encoder(long command_buffer, bool concurrent) {
  encoder_++;
  command_buffer_ = command_buffer;
  concurrent_ = concurrent;
}

void Hazards::barrier(const std::vector<const Buffer*>* resources) {
  std::erase_if(open_, [&](const Access& a) {
    return a.encoder == encoder_ && (!resources || std::find(resources->begin(), resources->end(),
                                                             a.buffer) != resources->end());
  });
}

void Hazards::ordered_up_to(long encoder) {
  std::erase_if(open_, [&](const Access& a) { return a.encoder <= encoder; });
}
void Hazards::completed(long command_buffer) {
  std::erase_if(open_, [&](const Access& a) { return a.command_buffer <= command_buffer; });
}

std::string Hazards::dispatch(std::vector<Access> accesses) {
  std::string first;
  for (Access& now : accesses) {
    now.encoder = encoder_;
    now.command_buffer = command_buffer_;
    for (const Access& before : open_) {
      if (!(now.begin < before.end && before.begin < now.end) || !(now.writes || before.writes))
        continue;
      const bool same_encoder = before.encoder == encoder_;
      if (same_encoder ? !concurrent_ : now.tracked && before.tracked) continue;
      const char* kind = !now.writes     ? "read after write"
                         : before.writes ? "write after write"
                                         : "write after read";
      const char* cure = same_encoder ? "a memoryBarrier"
                         : before.command_buffer == command_buffer_
                             ? "a fence"
                             : "a fence, an event, or completion";
      violation("hazard", "%s: %s after %s, without %s between (bytes %p to %p)", kind,
                now.what.c_str(), before.what.c_str(), cure,
                static_cast<const void*>(std::max(now.begin, before.begin)),
                static_cast<const void*>(std::min(now.end, before.end)));
      if (first.empty()) first = std::string(kind) + ": " + now.what + " after " + before.what;
      break;
    }
  }
  // Two arguments of one command that overlap in part, one of them written: no order of its threads
  // makes that right.
  for (size_t i = 0; i < accesses.size(); i++)
    for (size_t j = 0; j < i; j++) {
      const Access &a = accesses[i], &b = accesses[j];
      if (!(a.begin < b.end && b.begin < a.end) || !(a.writes || b.writes) || a.begin == b.begin)
        continue;
      if (a.buffer == b.buffer) continue;
      violation("hazard", "%s and %s of one command overlap in part", a.what.c_str(),
                b.what.c_str());
      if (first.empty()) first = a.what + " overlaps " + b.what;
    }
  for (Access& a : accesses) open_.push_back(std::move(a));
  return first;
}

}  // namespace sim
