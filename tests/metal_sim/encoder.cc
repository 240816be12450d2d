// MTLComputeCommandEncoder and MTLBlitCommandEncoder: what Apple's validation layer checks is
// checked when encoding.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "command.h"
#include "fibers.h"
#include "record.h"
#include "rule.h"
#include "sanitizers.h"

namespace sim {

bool Encoder::usable(const char* message) {
  if (!ended) return true;
  note("encoder ended", std::string(message) + " after endEncoding");
  return false;
}
void Encoder::note(const char* rule, std::string text) {
  violation(rule, "%s", text.c_str());
  if (buffer->broken.empty()) buffer->broken = std::string(rule) + ": " + text;
}
void Encoder::end() {
  if (!usable("endEncoding")) return;
  ended = true;
  buffer->open_encoder = nullptr;
}
Encoder::~Encoder() {
  if (ended) return;
  note("missing endEncoding",
       "an encoder of command buffer '" + buffer->name + "' is released without endEncoding");
  buffer->open_encoder = nullptr;
}

namespace {

struct Size {
  unsigned long width, height, depth;
};
struct Range {
  unsigned long location, length;
};
std::string text_of(Size s) {
  return "(" + std::to_string(s.width) + ", " + std::to_string(s.height) + ", " +
         std::to_string(s.depth) + ")";
}

struct Binding {
  Buffer* buffer = nullptr;
  size_t offset = 0;
  std::shared_ptr<std::string> bytes;  // of setBytes
};

// Under AddressSanitizer a kernel sees only the blocks of a heap that are bound: the rest is
// poisoned while it runs.
class HeapShield {
 public:
  explicit HeapShield(const std::vector<Binding>& bound) {
    if (!__asan_poison_memory_region) return;
    for (auto& b : bound)
      if (b.buffer && b.buffer->parent) {
        heaps_.push_back(b.buffer->parent);
        __asan_poison_memory_region(b.buffer->parent->memory, b.buffer->parent->bytes);
      }
    for (auto& b : bound)
      if (b.buffer && b.buffer->parent)
        __asan_unpoison_memory_region(b.buffer->memory, b.buffer->size);
  }
  ~HeapShield() {
    for (auto& heap : heaps_) __asan_unpoison_memory_region(heap->memory, heap->bytes);
  }

 private:
  std::vector<Ref<Heap>> heaps_;
};

// The bindings of a grid whose slots are known.
std::vector<Bound> as_bound(const Grid& grid, const std::vector<Binding>& bindings) {
  std::vector<Bound> list;
  for (size_t i = 0; i < bindings.size(); i++) {
    const Binding& b = bindings[i];
    const msl::Argument& a = grid.kernel->arguments[i];
    if (!grid.slots[i]) continue;
    list.push_back({grid.kernel->names[i], a.index, static_cast<const char*>(grid.slots[i]),
                    b.buffer ? b.buffer->size - b.offset : b.bytes->size(), a.writable,
                    b.bytes != nullptr});
  }
  return list;
}

struct ComputeEncoder : Encoder {
  static constexpr const char* kName = "MTLComputeCommandEncoder";
  bool concurrent = false;
  Ref<Pipeline> pipeline;
  std::array<Binding, 31> bound;
  std::array<unsigned long, 31> threadgroup{};

  void act(Action action) { buffer->actions.push_back(std::move(action)); }

  void set_pipeline(Pipeline* p) {
    if (!usable("setComputePipelineState:")) return;
    if (!p) return note("nil pipeline", "setComputePipelineState: with nil");
    pipeline = Ref<Pipeline>(p);
    buffer->keep(p);
  }
  void set_buffer(Buffer* b, unsigned long offset, unsigned long index) {
    if (!usable("setBuffer:")) return;
    if (index >= bound.size())
      return note("buffer index", "setBuffer: at index " + std::to_string(index) + ", past 30");
    if (b && offset >= b->size)
      note("buffer offset",
           "setBuffer: offset " + std::to_string(offset) + " is past the end of " + b->describe());
    bound[index] = {b, offset, nullptr};
    buffer->keep(b);
  }
  void set_buffers(Buffer* const* list, const unsigned long* offsets, Range range) {
    for (unsigned long i = 0; i < range.length; i++)
      set_buffer(list[i], offsets[i], range.location + i);
  }
  void set_offset(unsigned long offset, unsigned long index) {
    if (index >= bound.size() || !bound[index].buffer)
      return note("unbound buffer",
                  "setBufferOffset: at index " + std::to_string(index) + ", which has no buffer");
    set_buffer(bound[index].buffer, offset, index);
  }
  void set_bytes(const void* bytes, unsigned long length, unsigned long index) {
    if (!usable("setBytes:")) return;
    if (index >= bound.size())
      return note("buffer index", "setBytes: at index " + std::to_string(index) + ", past 30");
    if (!length || length > 4096)
      return note("setBytes length",
                  "setBytes: of " + std::to_string(length) + " bytes; 1 to 4096 are allowed");
    // Aligned storage that is exactly as long, so that AddressSanitizer sees a read past it.
    bound[index] = {nullptr, 0,
                    std::make_shared<std::string>(static_cast<const char*>(bytes), length)};
  }
  void set_threadgroup(unsigned long length, unsigned long index) {
    if (!usable("setThreadgroupMemoryLength:")) return;
    if (index >= threadgroup.size() || length % 16)
      return note("threadgroup memory", "setThreadgroupMemoryLength: " + std::to_string(length) +
                                            " at index " + std::to_string(index) +
                                            " must be a multiple of 16 at an index below 31");
    if (length > kThreadgroupBytes)
      note("threadgroup memory",
           "setThreadgroupMemoryLength: " + std::to_string(length) + " exceeds 32768");
    threadgroup[index] = length;
  }

  void dispatch_groups(Size groups, Size size) {
    dispatch({groups.width * size.width, groups.height * size.height, groups.depth * size.depth},
             size, "dispatchThreadgroups");
  }
  void dispatch_threads(Size threads, Size size) { dispatch(threads, size, "dispatchThreads"); }

  void dispatch(Size threads, Size size, const char* message) {
    if (!usable(message)) return;
    if (!pipeline) return note("no pipeline", std::string(message) + " without a pipeline");
    const msl::Kernel* kernel = pipeline->kernel;
    const std::string name = pipeline->name.empty() ? pipeline->function_name : pipeline->name;
    const unsigned long count = size.width * size.height * size.depth;
    if (!count || count > static_cast<unsigned long>(kernel->max_threads))
      return note("threads per threadgroup",
                  name + ": " + text_of(size) + " are " + std::to_string(count) +
                      " threads; 1 to " + std::to_string(kernel->max_threads) + " are allowed");
    if (!threads.width || !threads.height || !threads.depth)
      return note("empty grid", name + ": " + message + " with a grid of " + text_of(threads));
    if (std::max({threads.width, threads.height, threads.depth}) > 0xfffffffful)
      return note("grid size", name + ": " + text_of(threads) + " does not fit 32 bits");
    auto bindings = std::make_shared<std::vector<Binding>>();
    auto grid = std::make_shared<Grid>();
    std::vector<Access> accesses;
    for (int i = 0; i < kernel->count; i++) {
      const msl::Argument& a = kernel->arguments[i];
      const std::string what = name + "'s '" + kernel->names[i] + "'";
      bindings->emplace_back();
      if ((kernel->present[i] && !*kernel->present[i]) ||
          (a.kind != msl::kBuffer && a.kind != msl::kThreadgroup))
        continue;
      if (a.kind == msl::kThreadgroup) {
        if (threadgroup[a.index] < a.bytes)
          return note("threadgroup memory", what + " [[threadgroup(" + std::to_string(a.index) +
                                                ")]] has " + std::to_string(threadgroup[a.index]) +
                                                " bytes, and one element has " +
                                                std::to_string(a.bytes));
        continue;
      }
      const Binding& b = bound[a.index];
      const std::string place = what + " [[buffer(" + std::to_string(a.index) + ")]]";
      if (!b.buffer && !b.bytes) return note("unbound buffer", place + " has no buffer");
      const size_t have =
          b.buffer ? (b.offset < b.buffer->size ? b.buffer->size - b.offset : 0) : b.bytes->size();
      if (have < a.bytes)
        return note("argument size", place + " needs " + std::to_string(a.bytes) + " bytes, and " +
                                         std::to_string(have) + " are bound");
      if (b.buffer && b.offset % a.alignment)
        return note("argument alignment", place + ": offset " + std::to_string(b.offset) +
                                              " is no multiple of " + std::to_string(a.alignment));
      if (b.bytes && a.writable)
        return note("argument constness", place + " is written, but was given by setBytes:");
      if (b.buffer) accesses.push_back(access_to(b.buffer, b.offset, a.writable, place));
      bindings->back() = b;
    }
    grid->kernel = kernel;
    grid->threadgroup_bytes.assign(threadgroup.begin(), threadgroup.end());
    for (int i = 0; i < 3; i++) {
      grid->threads[i] = static_cast<uint32_t>((&threads.width)[i]);
      grid->threadgroup[i] = static_cast<uint32_t>((&size.width)[i]);
    }
    buffer->dispatches++;
    for (const Access& a : accesses) buffer->bytes += a.end - a.begin;
    act([bindings, grid, accesses, name, made = pipeline](Queue& queue) {
      if (std::string hazard = queue.hazards.dispatch(accesses); !hazard.empty())
        return "hazard: " + hazard;
      std::vector<std::unique_ptr<char[]>> constants;
      for (auto& b : *bindings) {
        if (b.buffer && !alive(b.buffer)) {
          violation("use after release", "%s: a bound buffer was released before the command ran",
                    name.c_str());
          return name + ": a bound buffer was released";
        }
        void* slot = b.buffer ? b.buffer->memory + b.offset : nullptr;
        if (b.bytes) {
          constants.emplace_back(new char[b.bytes->size()]);
          memcpy(constants.back().get(), b.bytes->data(), b.bytes->size());
          slot = constants.back().get();
        }
        grid->slots.push_back(slot);
      }
      std::string text;
      std::unique_ptr<Record> record;
      const std::vector<Bound> seen =
          Record::wanted() ? as_bound(*grid, *bindings) : std::vector<Bound>();
      if (Record::wanted()) record = std::make_unique<Record>(*made.get(), *grid, seen);
      if (!Record::only()) {
        HeapShield shield(*bindings);
        text = run_grid(*grid);
      }
      made->planted.delay();
      for (size_t i = 0; i < bindings->size(); i++)
        if (const Binding& b = (*bindings)[i]; b.buffer && grid->kernel->arguments[i].writable)
          made->planted.spoil(b.buffer->memory + b.offset, b.buffer->size - b.offset);
      if (record) record->finish(seen);
      if (!text.empty()) {
        violation("kernel", "%s: %s", name.c_str(), text.c_str());
        return name + ": " + text;
      }
      for (auto& b : *bindings)
        if (b.buffer && !b.buffer->intact()) {
          violation("out of bounds", "%s wrote past the end of %s", name.c_str(),
                    b.buffer->describe().c_str());
          memset(b.buffer->memory + b.buffer->size, 0xa5, kCanary);
          return name + " wrote past the end of " + b.buffer->describe();
        }
      return std::string();
    });
  }

  void barrier(unsigned long scope) {
    if (!usable("memoryBarrierWithScope:")) return;
    if (scope & 1)
      act([](Queue& queue) {
        queue.hazards.barrier(nullptr);
        return std::string();
      });
  }
  void barrier_on(Object* const* resources, unsigned long n) {
    auto list = std::make_shared<std::vector<const Buffer*>>();
    for (unsigned long i = 0; i < n; i++) list->push_back(static_cast<Buffer*>(resources[i]));
    act([list](Queue& queue) {
      queue.hazards.barrier(list.get());
      return std::string();
    });
  }
  void update_fence(Fence* fence) {
    buffer->keep(fence);
    act([fence](Queue& queue) {
      fence->updated = queue.hazards.encoder();
      return std::string();
    });
  }
  void wait_fence(Fence* fence) {
    buffer->keep(fence);
    act([fence](Queue& queue) {
      queue.hazards.ordered_up_to(fence->updated);
      return std::string();
    });
  }
  unsigned long type() { return concurrent ? 1 : 0; }
  Device* device() { return buffer->queue->owner; }
  void nothing() {}
  void nothing_with(Object*) {}
  void use(Object* resource, unsigned long) { buffer->keep(resource); }
  void use_many(Object* const* list, unsigned long n, unsigned long) {
    for (unsigned long i = 0; i < n; i++) buffer->keep(list[i]);
  }
  void use_heap(Object* heap) { buffer->keep(heap); }
};

using C = ComputeEncoder;
const auto compute_class =
    Define<ComputeEncoder>("_Labelled")
        .on<&C::set_pipeline>("setComputePipelineState:")
        .on<&C::set_buffer>("setBuffer:offset:atIndex:")
        .on<&C::set_buffers>("setBuffers:offsets:withRange:")
        .on<&C::set_offset>("setBufferOffset:atIndex:")
        .on<&C::set_bytes>("setBytes:length:atIndex:")
        .on<&C::set_threadgroup>("setThreadgroupMemoryLength:atIndex:")
        .on<&C::dispatch_groups>("dispatchThreadgroups:threadsPerThreadgroup:")
        .on<&C::dispatch_threads>("dispatchThreads:threadsPerThreadgroup:")
        .on<&C::barrier>("memoryBarrierWithScope:")
        .on<&C::barrier_on>("memoryBarrierWithResources:count:")
        .on<&C::update_fence>("updateFence:")
        .on<&C::wait_fence>("waitForFence:")
        .on<&C::use>("useResource:usage:")
        .on<&C::use_many>("useResources:count:usage:")
        .on<&C::use_heap>("useHeap:")
        .on<&C::type>("dispatchType")
        .on<&C::device>("device")
        .on<&C::nothing_with>("pushDebugGroup:")
        .on<&C::nothing_with>("insertDebugSignpost:")
        .on<&C::nothing>("popDebugGroup")
        .on<&Encoder::end>("endEncoding");

struct BlitEncoder : Encoder {
  static constexpr const char* kName = "MTLBlitCommandEncoder";
  void copy(Buffer* from, unsigned long at, Buffer* to, unsigned long to_at, unsigned long n) {
    if (!usable("copyFromBuffer:")) return;
    if (!from || !to || at + n > from->size || to_at + n > to->size || !n)
      return note("blit range", "copyFromBuffer: of " + std::to_string(n) +
                                    " bytes is past an end, or a buffer is nil");
    buffer->keep(from);
    buffer->keep(to);
    buffer->actions.push_back([=](Queue& queue) {
      Access read = access_to(from, at, false, "copyFromBuffer's source"),
             write = access_to(to, to_at, true, "copyFromBuffer's destination");
      read.end = read.begin + n;
      write.end = write.begin + n;
      if (std::string text = queue.hazards.dispatch({read, write}); !text.empty())
        return "hazard: " + text;
      memmove(to->memory + to_at, from->memory + at, n);
      return std::string();
    });
  }
  void fill(Buffer* to, Range range, unsigned char value) {
    if (!usable("fillBuffer:")) return;
    if (!to || range.location + range.length > to->size)
      return note("blit range", "fillBuffer: is past the end");
    buffer->keep(to);
    buffer->actions.push_back([=](Queue& queue) {
      Access write = access_to(to, range.location, true, "fillBuffer");
      write.end = write.begin + range.length;
      if (std::string text = queue.hazards.dispatch({write}); !text.empty())
        return "hazard: " + text;
      memset(to->memory + range.location, value, range.length);
      return std::string();
    });
  }
  void synchronize(Object*) {}
};
const auto blit_class =
    Define<BlitEncoder>("_Labelled")
        .on<&BlitEncoder::copy>("copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:")
        .on<&BlitEncoder::fill>("fillBuffer:range:value:")
        .on<&BlitEncoder::synchronize>("synchronizeResource:")
        .on<&Encoder::end>("endEncoding");

void open(Encoder* encoder, CommandBuffer* buffer, bool concurrent) {
  encoder->buffer = Ref<CommandBuffer>(buffer);
  buffer->open_encoder = encoder;
  buffer->actions.push_back([buffer, concurrent](Queue& queue) {
    queue.hazards.begin_encoder(buffer->number, concurrent);
    return std::string();
  });
}

}  // namespace

bool alive(Object* object) { return object->references > 0; }

Object* new_compute_encoder(CommandBuffer* buffer, bool concurrent) {
  if (fault("encoder")) return nullptr;
  auto* encoder = make<ComputeEncoder>();
  encoder->concurrent = concurrent;
  open(encoder, buffer, concurrent);
  return autoreleased(encoder);
}
Object* new_blit_encoder(CommandBuffer* buffer) {
  auto* encoder = make<BlitEncoder>();
  open(encoder, buffer, false);
  return autoreleased(encoder);
}

}  // namespace sim
