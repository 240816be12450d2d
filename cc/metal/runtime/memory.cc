#include "memory.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <thread>

#include "arena.h"

namespace jax_mps::metal {
namespace {

constexpr size_t kSmallestBuffer = 16 * 1024;
constexpr size_t kMaxPooledBytes = size_t{256} << 20;
constexpr size_t kCopyGrain = size_t{4} << 20;  // bytes of a copy that one thread makes
constexpr size_t kCopyThreads = 4;

struct StagingPool {
  std::mutex mutex;
  std::multimap<size_t, Owned<MTL::Buffer>> free;
  size_t bytes = 0;
};

StagingPool& pool() {
  static StagingPool* pool = new StagingPool;  // outlives every thread
  return *pool;
}

Owned<MTL::Buffer> take(Device& device, size_t bytes) {
  size_t capacity = std::bit_ceil(std::max(bytes, kSmallestBuffer));
  if (capacity > device.metal()->maxBufferLength()) capacity = bytes;
  {
    std::lock_guard lock(pool().mutex);
    auto found = pool().free.find(capacity);
    if (found != pool().free.end()) {
      auto buffer = std::move(found->second);
      pool().free.erase(found);
      pool().bytes -= capacity;
      return buffer;
    }
  }
  return own(device.metal()->newBuffer(capacity, MTL::ResourceStorageModeShared));
}

void give_back(Owned<MTL::Buffer> buffer) {
  size_t capacity = buffer->length();
  std::lock_guard lock(pool().mutex);
  if (pool().bytes + capacity > kMaxPooledBytes) return;
  pool().bytes += capacity;
  pool().free.emplace(capacity, std::move(buffer));
}

void copy(void* to, const void* from, size_t bytes) {
  size_t threads = std::clamp<size_t>(bytes / kCopyGrain, 1, kCopyThreads);
  size_t share = (bytes / threads + 63) / 64 * 64;
  auto piece = [=](size_t i) {
    size_t begin = std::min(i * share, bytes), end = std::min(begin + share, bytes);
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                end - begin);
  };
  std::vector<std::thread> others;
  for (size_t i = 1; i < threads; i++) others.emplace_back(piece, i);
  piece(0);
  for (std::thread& other : others) other.join();
}

uintptr_t down(uintptr_t address, size_t unit) { return address / unit * unit; }

}  // namespace

Windows::~Windows() {
  for (Window& window : windows_)
    if (window.staged && window.buffer) give_back(std::move(window.buffer));
}

void Windows::add(const void* data, size_t bytes, bool reads, bool writes) {
  auto begin = reinterpret_cast<uintptr_t>(data);
  arrays_.push_back({begin, begin + std::max<size_t>(bytes, 1), reads, writes});
}

void Windows::open() {
  size_t unit = direct_ ? device_.page() : 64;
  std::vector<Array> sorted = arrays_;
  std::ranges::sort(sorted, {}, &Array::begin);
  for (const Array& array : sorted) {
    uintptr_t begin = down(array.begin, unit), end = down(array.end + unit - 1, unit);
    if (!windows_.empty() && begin < windows_.back().end)
      windows_.back().end = std::max(windows_.back().end, end);
    else
      windows_.push_back({begin, end, {}, false});
  }
  for (Window& window : windows_) {
    size_t bytes = window.end - window.begin;
    if (direct_)
      window.buffer = own(device_.metal()->newBuffer(reinterpret_cast<void*>(window.begin), bytes,
                                                     MTL::ResourceStorageModeShared, nullptr));
    if (window.buffer) {
      device_.statistics.direct_bytes += bytes;
      continue;
    }
    window.staged = true;
    window.buffer = take(device_, bytes);
    if (!window.buffer)
      throw MetalError("Metal has no memory for a copy of " + std::to_string(bytes) + " bytes");
    device_.statistics.staged_bytes += bytes;
  }
  for (const Array& array : arrays_) {
    const Window& window = window_of(array.begin);
    if (window.staged && array.reads)
      copy(static_cast<char*>(window.buffer->contents()) + (array.begin - window.begin),
           reinterpret_cast<void*>(array.begin), array.end - array.begin);
  }
}

const Windows::Window& Windows::window_of(uintptr_t address) const {
  auto after = std::ranges::upper_bound(windows_, address, {}, &Window::begin);
  return *std::prev(after);
}

std::pair<MTL::Buffer*, size_t> Windows::find(const void* data) const {
  auto address = reinterpret_cast<uintptr_t>(data);
  const Window& window = window_of(address);
  return {window.buffer.get(), address - window.begin};
}

void Windows::copy_out() {
  for (const Array& array : arrays_) {
    const Window& window = window_of(array.begin);
    if (window.staged && array.writes)
      copy(reinterpret_cast<void*>(array.begin),
           static_cast<char*>(window.buffer->contents()) + (array.begin - window.begin),
           array.end - array.begin);
  }
}

bool Windows::staged() const { return std::ranges::any_of(windows_, &Window::staged); }

size_t Windows::pooled_bytes() {
  std::lock_guard lock(pool().mutex);
  return pool().bytes;
}

void Windows::release_pool() {
  Pool autoreleased;
  std::lock_guard lock(pool().mutex);
  pool().free.clear();
  pool().bytes = 0;
}

Workspace::Workspace(Device& device, const std::vector<Place>& places, bool tracked) {
  if (places.empty()) return;
  const auto options =
      MTL::ResourceStorageModePrivate |
      (tracked ? MTL::ResourceHazardTrackingModeTracked : MTL::ResourceHazardTrackingModeUntracked);
  size_t bytes = 0;
  bool fits = true;  // whether the plan's offsets are such as this device places buffers at
  for (const Place& place : places) {
    MTL::SizeAndAlign needs = device.metal()->heapBufferSizeAndAlign(place.bytes, options);
    fits = fits && place.offset % needs.align == 0;
    bytes = std::max(bytes, place.offset + std::max<size_t>(needs.size, place.bytes));
  }
  auto descriptor = own(MTL::HeapDescriptor::alloc()->init());
  descriptor->setType(MTL::HeapTypePlacement);
  descriptor->setStorageMode(MTL::StorageModePrivate);
  descriptor->setHazardTrackingMode(tracked ? MTL::HazardTrackingModeTracked
                                            : MTL::HazardTrackingModeUntracked);
  descriptor->setSize(bytes);
  heap_ = own(device.metal()->newHeap(descriptor.get()));
  if (!heap_) throw OutOfMemory("program: the working memory on the GPU", bytes);
  for (const Place& place : places) {
    if (fits || buffers_.empty())
      buffers_.push_back(
          own(heap_->newBuffer(fits ? place.bytes : bytes, options, fits ? place.offset : 0)));
    if (!buffers_.back())
      throw MetalError("Metal has no memory for " + std::to_string(bytes) + " bytes in a heap");
    offsets_.push_back(fits ? 0 : place.offset);
  }
}

std::pair<MTL::Buffer*, size_t> Workspace::buffer(size_t place) const {
  return {buffers_[std::min(place, buffers_.size() - 1)].get(), offsets_[place]};
}

bool Hazards::add(const std::vector<Range>& ranges) {
  auto conflict = [](const Range& a, const Range& b) {
    return (a.writes || b.writes) && a.heap == b.heap && a.begin < b.end && b.begin < a.end;
  };
  bool waits = false;
  for (const Range& range : ranges)
    for (const Range& other : since_) waits = waits || conflict(range, other);
  if (waits) since_.clear();
  since_.insert(since_.end(), ranges.begin(), ranges.end());
  return waits;
}

}  // namespace jax_mps::metal
