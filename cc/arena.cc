#include "arena.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace jax_mps {
namespace {

constexpr size_t kPage = 4096, kHugePage = 2 << 20;
constexpr size_t kMaxBlocks = 4;  // as many concurrent runs keep their memory between calls

struct Block {
  std::byte* data;
  size_t capacity;
};

struct Pool {
  std::mutex mutex;
  std::vector<Block> blocks;
};

Pool& pool() {
  static Pool* pool = [] {  // outlives every thread that may still return a block
    auto* pool = new Pool;
    pool->blocks.reserve(kMaxBlocks + 1);  // returning a block allocates nothing
    return pool;
  }();
  return *pool;
}

std::align_val_t alignment(size_t bytes) {
  return std::align_val_t{bytes < kHugePage ? kPage : kHugePage};
}

// Large blocks ask for huge pages: loops over rows that are kilobytes apart touch more small pages
// than the processor keeps translations of.
std::byte* allocate(size_t bytes) {
  auto* data = static_cast<std::byte*>(::operator new(bytes, alignment(bytes), std::nothrow));
  if (!data) throw std::bad_alloc();
#ifdef __linux__
  if (bytes >= kHugePage) madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return data;
}

void free_block(Block block) { ::operator delete(block.data, alignment(block.capacity)); }

std::string in_words(size_t bytes) {
  char words[32];
  bool large = bytes >= 100'000'000;
  double units = static_cast<double>(bytes) / (large ? 1e9 : 1e6);
  std::snprintf(words, sizeof words, "%.1f %s", units, large ? "GB" : "MB");
  return words;
}

}  // namespace

OutOfMemory::OutOfMemory(const std::string& what, size_t bytes)
    : std::runtime_error(what + " of " + in_words(bytes) +
                         " does not fit: the system gives no more memory. Use a smaller batch, "
                         "jax.checkpoint, or leave part of the function out of mps.graph.") {}

Arena::Arena(size_t bytes) {
  if (bytes == 0) return;
  Block too_small{nullptr, 0};
  {
    std::lock_guard lock(pool().mutex);
    auto& blocks = pool().blocks;
    // The smallest block that fits; if none does, the largest makes way for a new one.
    auto best = blocks.end();
    for (auto it = blocks.begin(); it != blocks.end(); ++it)
      if (it->capacity >= bytes && (best == blocks.end() || it->capacity < best->capacity))
        best = it;
    if (best != blocks.end()) {
      data_ = best->data;
      capacity_ = best->capacity;
      blocks.erase(best);
      return;
    }
    auto largest = std::ranges::max_element(blocks, {}, &Block::capacity);
    if (largest != blocks.end()) {
      too_small = *largest;
      blocks.erase(largest);
    }
  }
  if (too_small.data) free_block(too_small);
  try {
    data_ = allocate(bytes);
  } catch (const std::bad_alloc&) {
    release_pool();  // what waits for reuse may be what lacks
    try {
      data_ = allocate(bytes);
    } catch (const std::bad_alloc&) {
      throw OutOfMemory("program: the working memory", bytes);
    }
  }
  capacity_ = bytes;
}

Arena::~Arena() {
  if (!data_) return;
  Block surplus{data_, capacity_};
  std::lock_guard lock(pool().mutex);
  auto& blocks = pool().blocks;
  blocks.push_back(surplus);
  if (blocks.size() > kMaxBlocks) {
    auto smallest = std::ranges::min_element(blocks, {}, &Block::capacity);
    free_block(*smallest);
    blocks.erase(smallest);
  }
}

size_t Arena::pooled_bytes() {
  std::lock_guard lock(pool().mutex);
  size_t bytes = 0;
  for (const Block& block : pool().blocks) bytes += block.capacity;
  return bytes;
}

void Arena::release_pool() {
  std::lock_guard lock(pool().mutex);
  for (Block block : pool().blocks) free_block(block);
  pool().blocks.clear();
}

}  // namespace jax_mps
