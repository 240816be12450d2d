// The GPU: chosen once, with its queue, its libraries and pipelines, and statistics.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <semaphore>

#include "metal/recipe.h"
#include "metal_cpp.h"
#include "work.h"

namespace jax_mps::metal {

// An error of Metal; the words reach the user as INTERNAL.
struct MetalError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Statistics {
  std::atomic<int64_t> runs{0}, command_buffers{0}, dispatches{0}, barriers{0};
  std::atomic<int64_t> direct_bytes{0}, staged_bytes{0}, gpu_nanoseconds{0};
};

class Device {
 public:
  static Device* get();  // nullptr if this machine has none

  MTL::Device* metal() const { return device_.get(); }
  MTL::CommandQueue* queue() const { return queue_.get(); }
  // The pipeline of a dispatch, compiled at first use. Throws ProgramError that names the kernel.
  Owned<MTL::ComputePipelineState> pipeline(const Dispatch& dispatch);
  // Writes new pipelines to the archive on disk, for the next process.
  void save_pipelines();

  const std::string& name() const { return name_; }
  // Whether arrays in the host's memory may be used where they lie; found out on first use.
  bool direct();
  size_t page() const { return page_; }

  std::counting_semaphore<64> runs_in_flight{3};
  Statistics statistics;
  Budget budget;

 private:
  Device(Owned<MTL::Device> device, Owned<MTL::CommandQueue> queue);
  Owned<MTL::Library> library(const Dispatch& dispatch);
  Owned<MTL::ComputePipelineState> compile(const Dispatch& dispatch);
  void open_archive();
  bool test_direct();

  Owned<MTL::Device> device_;
  Owned<MTL::CommandQueue> queue_;
  Owned<MTL::BinaryArchive> archive_;
  std::string name_, archive_path_;
  bool archive_grew_ = false;
  size_t page_;
  std::once_flag direct_once_;
  bool direct_ = false;
  std::mutex mutex_;
  std::map<std::string, Owned<MTL::Library>> libraries_;
  std::map<std::string, Owned<MTL::ComputePipelineState>> pipelines_;
  std::map<std::string, std::string> failures_;  // of pipelines: the words
};

// Where this process keeps what it learns of a GPU; an empty string for nowhere.
std::string cache_folder();

}  // namespace jax_mps::metal
