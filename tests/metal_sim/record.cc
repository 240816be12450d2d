// The file of recorded dispatches: lines of words, each argument's followed by its bytes.
#include "record.h"

#include <cstdlib>
#include <fstream>
#include <functional>
#include <mutex>

#include "rule.h"

namespace sim {
namespace {

std::string folder() {
  const char* name = getenv("METAL_SIM_RECORD");
  return name ? name : "";
}

std::mutex& lock() {
  static auto& m = *new std::mutex;
  return m;
}

// The name of the file with a library's source.
std::string save_source(const std::string& source) {
  char name[32];
  snprintf(name, sizeof(name), "%016zx.metal", std::hash<std::string>()(source));
  const std::string path = folder() + "/" + name;
  std::lock_guard hold(lock());
  if (!std::ifstream(path)) std::ofstream(path) << source;
  return name;
}

std::string words(const uint32_t v[3]) {
  return std::to_string(v[0]) + " " + std::to_string(v[1]) + " " + std::to_string(v[2]);
}

}  // namespace

bool Record::wanted() { return !folder().empty(); }
bool Record::only() { return wanted() && environment("METAL_SIM_RECORD_ONLY", 0) != 0; }

Record::Record(const Pipeline& pipeline, const Grid& grid, const std::vector<Bound>& bound) {
  text_ = "dispatch " + save_source(pipeline.origin->source) + " " + pipeline.function_name + " " +
          words(grid.threads) + " " + words(grid.threadgroup) + "\n";
  for (auto& [index, value] : pipeline.origin->constants) {
    text_ += "constant " + std::to_string(index) + " " + std::to_string(value.type) + " ";
    char byte[3];
    for (unsigned char c : value.bytes) snprintf(byte, sizeof(byte), "%02x", c), text_ += byte;
    text_ += "\n";
  }
  for (size_t i = 0; i < grid.threadgroup_bytes.size(); i++)
    if (grid.threadgroup_bytes[i])
      text_ += "threadgroup " + std::to_string(i) + " " +
               std::to_string(grid.threadgroup_bytes[i]) + "\n";
  for (auto& b : bound) {
    const bool bytes = b.constant || !only();
    text_ += std::string("argument ") + b.name + " " + std::to_string(b.slot) + " " +
             (b.constant   ? "constant "
              : b.writable ? "written "
                           : "read ") +
             std::to_string(reinterpret_cast<uintptr_t>(b.memory)) + " " + std::to_string(b.bytes) +
             " " + (bytes ? "1" : "0") + "\n";
    if (bytes) text_.append(b.memory, b.bytes) += "\n";
  }
}

void Record::finish(const std::vector<Bound>& bound) {
  text_ += "after\n";
  for (auto& b : bound)
    if (b.writable && !only()) text_.append(b.memory, b.bytes) += "\n";
  std::lock_guard hold(lock());
  std::ofstream(folder() + "/dispatches", std::ios::binary | std::ios::app) << text_;
}

}  // namespace sim
