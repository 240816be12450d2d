// MTLCommandQueue and MTLCommandBuffer: committed buffers run in order on the queue's own thread.
#include "command.h"

#include <Block.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "event.h"
#include "rule.h"

namespace sim {
namespace {

std::atomic<long> tallies[4];

void call_block(void* block, Object* argument) {
  struct Block {
    void* isa;
    int flags, reserved;
    void (*invoke)(void*, Object*);
  };
  static_cast<Block*>(block)->invoke(block, argument);
}

}  // namespace

void count(Tally what, long number) {
  std::atomic<long>& largest = tallies[static_cast<int>(what)];
  if (what == Tally::waits) {
    largest += number;
    return;
  }
  for (long seen = largest; seen < number && !largest.compare_exchange_weak(seen, number);) {
  }
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Queue::Queue() : worker([this] { work(); }) {}
Queue::~Queue() {
  {
    std::lock_guard hold(lock);
    stopping = true;
  }
  changed.notify_all();
  if (worker.get_id() == std::this_thread::get_id()) {
    *gone = true;
    worker.detach();
  } else {
    worker.join();
  }
}

void Queue::work() {
  bool was_last = false;
  gone = &was_last;
  for (;;) {
    Ref<CommandBuffer> next;
    {
      std::unique_lock hold(lock);
      changed.wait(hold, [&] { return stopping || !committed.empty(); });
      if (committed.empty()) return;
      next = committed.front();
      committed.pop_front();
    }
    const long number = next->number;
    next->run();
    next = Ref<CommandBuffer>();
    if (was_last) return;
    std::lock_guard hold(lock);
    settled = number;
    changed.notify_all();
  }
}

Queue* new_queue(Device* device, unsigned long most) {
  if (fault("queue")) return nullptr;
  auto* queue = make<Queue>();
  queue->owner = device;
  queue->most = most;
  return queue;
}

CommandBuffer* new_command_buffer(Queue* queue, bool retains) {
  if (fault("command_buffer")) return nullptr;
  {
    std::unique_lock hold(queue->lock);
    const bool free = queue->changed.wait_for(hold, std::chrono::seconds(60),
                                              [&] { return queue->live < long(queue->most); });
    if (!free)
      violation("queue full",
                "%lu command buffers are not completed, and none ends within a minute",
                queue->most);
    queue->live++;
  }
  auto* buffer = make<CommandBuffer>();
  buffer->queue = Ref<Queue>(queue);
  buffer->retains = retains;
  return autoreleased(buffer);
}

CommandBuffer::~CommandBuffer() {
  for (auto* list : {&on_scheduled, &on_completed})
    for (void* block : *list) _Block_release(block);
  if (status == kError && !asked)
    violation("lost error",
              "command buffer '%s' failed (%s), and its status and error were never read",
              name.c_str(), error->message.c_str());
  if (status < kCompleted) {  // never committed
    std::lock_guard hold(queue->lock);
    queue->live--;
    queue->changed.notify_all();
  }
}

void CommandBuffer::commit() {
  if (status >= kCommitted) {
    violation("double commit", "command buffer '%s' is committed twice", name.c_str());
    broken = "committed twice";
    return;
  }
  if (open_encoder) {
    violation("missing endEncoding", "command buffer '%s' is committed while an encoder is open",
              name.c_str());
    broken = "missing endEncoding: committed while an encoder is open";
  }
  std::lock_guard hold(queue->lock);
  status = kCommitted;
  number = ++queue->numbers;
  after = queue->done;  // what the client may have seen complete
  queue->committed.emplace_back(this);
  queue->changed.notify_all();
  count(Tally::dispatches, dispatches);
  count(Tally::bytes, bytes);
  count(Tally::in_flight, number - queue->done);
}

void CommandBuffer::run() {
  void* pool = objc_autoreleasePoolPush();
  if (const long delay = environment("METAL_SIM_DELAY_MS", 0))
    std::this_thread::sleep_for(std::chrono::milliseconds(delay));
  {
    std::lock_guard hold(queue->lock);
    status = kScheduled;
    queue->changed.notify_all();
  }
  for (void* block : on_scheduled) call_block(block, this);
  begin = now();
  queue->hazards.completed(after);
  std::string text = broken;
  long code = 1;
  if (fault("command")) text = "injected";
  // As macOS words them: its watchdog ends what is too long, or hinders the screen; what runs
  // beside it may end with it.
  const long most = environment("METAL_SIM_WATCHDOG", 0);  // of dispatches
  if (fault("timeout") || (most && dispatches > most)) {
    text = "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)";
    code = 2;
  }
  if (fault("interactivity"))
    text =
        "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)";
  if (fault("victim"))
    text = "Innocent Victim (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)";
  for (auto& action : actions) {
    if (!text.empty()) break;
    Watch watch;
    text = action(*queue.get());
    if (text.empty()) text = watch.first;
  }
  end = now();
  actions.clear();
  kept.clear();
  if (!text.empty()) {
    auto* e = make<Error>();
    e->domain = "MTLCommandBufferErrorDomain";
    e->code = code;
    e->message = text;
    error = Ref<Error>::take(e);
  }
  {
    std::lock_guard hold(queue->lock);
    status = text.empty() ? kCompleted : kError;
    queue->done = number;
    queue->live--;
    queue->changed.notify_all();
  }
  for (void* block : on_completed) call_block(block, this);
  {
    std::lock_guard hold(queue->lock);
    for (auto* list : {&on_scheduled, &on_completed}) {
      for (void* block : *list) _Block_release(block);
      list->clear();
    }
  }
  objc_autoreleasePoolPop(pool);
}

void CommandBuffer::wait_completed() {
  if (status < kCommitted) {
    violation("wait before commit",
              "waitUntilCompleted on command buffer '%s', which is not committed", name.c_str());
    return;
  }
  std::unique_lock hold(queue->lock);
  if (queue->settled < number) count(Tally::waits, 1);
  queue->changed.wait(hold, [&] { return queue->settled >= number; });
}

namespace {

struct BufferMessages : CommandBuffer {
  void enqueue() {
    if (status == kNotEnqueued) status = kEnqueued;
  }
  void wait_scheduled() {
    std::unique_lock hold(queue->lock);
    queue->changed.wait(hold, [&] { return status >= kScheduled; });
  }
  void add(std::vector<void*>& list, void* block, const char* what) {
    if (status >= kCommitted) violation("late handler", "%s after commit", what);
    list.push_back(_Block_copy(block));
  }
  void add_scheduled(void* block) { add(on_scheduled, block, "addScheduledHandler:"); }
  void add_completed(void* block) { add(on_completed, block, "addCompletedHandler:"); }
  unsigned long get_status() {
    std::lock_guard hold(queue->lock);
    asked |= status >= kCompleted;
    return static_cast<unsigned long>(status);
  }
  Error* get_error() {
    std::lock_guard hold(queue->lock);
    asked |= status >= kCompleted;
    return status == kError ? error.get() : nullptr;
  }
  double get_begin() { return begin; }
  double get_end() { return end; }
  bool get_retains() { return retains; }
  Queue* get_queue() { return queue.get(); }
  Device* device() { return queue->owner; }
  bool can_encode(const char* what) {
    if (status < kCommitted && !open_encoder) return true;
    violation(what, "command buffer '%s' %s", name.c_str(),
              status >= kCommitted ? "is committed already"
                                   : "has another encoder open: endEncoding is missing");
    broken = what;
    return status < kCommitted;
  }
  Object* compute() {
    return can_encode("computeCommandEncoder") ? new_compute_encoder(this, false) : nullptr;
  }
  Object* compute_of_type(unsigned long type) {
    return can_encode("computeCommandEncoder") ? new_compute_encoder(this, type == 1) : nullptr;
  }
  struct PassDescriptor : Object {
    static constexpr const char* kName = "MTLComputePassDescriptor";
    unsigned long type = 0;
    void set_type(unsigned long t) { type = t; }
    static PassDescriptor* create() { return autoreleased(make<PassDescriptor>()); }
  };
  Object* compute_of_pass(PassDescriptor* d) { return compute_of_type(d->type); }
  Object* blit() { return can_encode("blitCommandEncoder") ? new_blit_encoder(this) : nullptr; }
  void signal(SharedEvent* event, unsigned long value) {
    keep(event);
    actions.push_back([event, value](Queue& q) {
      event->signal(value, q.hazards.encoder());
      return std::string();
    });
  }
  void wait(SharedEvent* event, unsigned long value) {
    keep(event);
    actions.push_back([event, value](Queue& q) {
      if (!event->wait(value, 60000))
        return std::string("an event that it waits for is not signalled within a minute");
      q.hazards.ordered_up_to(event->encoder);
      return std::string();
    });
  }
  void nothing() {}
  void nothing_with(Object*) {}
};
using B = BufferMessages;
const auto pass_class = Define<B::PassDescriptor>()
                            .creatable()
                            .on_class<&B::PassDescriptor::create>("computePassDescriptor")
                            .on<&B::PassDescriptor::set_type>("setDispatchType:");
const auto buffer_class = Define<CommandBuffer>("_Labelled")
                              .on<&CommandBuffer::commit>("commit")
                              .on<&B::enqueue>("enqueue")
                              .on<&CommandBuffer::wait_completed>("waitUntilCompleted")
                              .on<&B::wait_scheduled>("waitUntilScheduled")
                              .on<&B::add_scheduled>("addScheduledHandler:")
                              .on<&B::add_completed>("addCompletedHandler:")
                              .on<&B::get_status>("status")
                              .on<&B::get_error>("error")
                              .on<&B::get_begin>("GPUStartTime")
                              .on<&B::get_end>("GPUEndTime")
                              .on<&B::get_begin>("kernelStartTime")
                              .on<&B::get_end>("kernelEndTime")
                              .on<&B::get_retains>("retainedReferences")
                              .on<&B::get_queue>("commandQueue")
                              .on<&B::device>("device")
                              .on<&B::compute>("computeCommandEncoder")
                              .on<&B::compute_of_type>("computeCommandEncoderWithDispatchType:")
                              .on<&B::compute_of_pass>("computeCommandEncoderWithDescriptor:")
                              .on<&B::blit>("blitCommandEncoder")
                              .on<&B::signal>("encodeSignalEvent:value:")
                              .on<&B::wait>("encodeWaitForEvent:value:")
                              .on<&B::nothing_with>("pushDebugGroup:")
                              .on<&B::nothing>("popDebugGroup");

struct BufferDescriptor : Object {
  static constexpr const char* kName = "MTLCommandBufferDescriptor";
  bool retains = true;
  unsigned long errors = 0;
  void set_retains(bool on) { retains = on; }
  bool get_retains() { return retains; }
  void set_errors(unsigned long options) { errors = options; }
  unsigned long get_errors() { return errors; }
};
const auto buffer_descriptor = Define<BufferDescriptor>()
                                   .creatable()
                                   .on<&BufferDescriptor::set_retains>("setRetainedReferences:")
                                   .on<&BufferDescriptor::get_retains>("retainedReferences")
                                   .on<&BufferDescriptor::set_errors>("setErrorOptions:")
                                   .on<&BufferDescriptor::get_errors>("errorOptions");

struct QueueMessages : Queue {
  CommandBuffer* command_buffer() { return new_command_buffer(this, true); }
  CommandBuffer* unretained() { return new_command_buffer(this, false); }
  CommandBuffer* described(BufferDescriptor* d) { return new_command_buffer(this, d->retains); }
  Device* device() { return owner; }
};
const auto queue_class =
    Define<Queue>("_Labelled")
        .on<&QueueMessages::command_buffer>("commandBuffer")
        .on<&QueueMessages::unretained>("commandBufferWithUnretainedReferences")
        .on<&QueueMessages::described>("commandBufferWithDescriptor:")
        .on<&QueueMessages::device>("device");

}  // namespace
}  // namespace sim

// "dispatches", "bytes", "in_flight" or "waits"; begins the count anew.
extern "C" long metal_sim_tally(const char* what) {
  const char* names[] = {"dispatches", "bytes", "in_flight", "waits"};
  for (int i = 0; i < 4; i++)
    if (!strcmp(what, names[i])) return sim::tallies[i].exchange(0);
  return -1;
}
