// Queues, command buffers and encoders.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "hazard.h"
#include "library.h"
#include "resource.h"

namespace sim {

struct CommandBuffer;

struct Queue : Labelled {
  static constexpr const char* kName = "MTLCommandQueue";
  Device* owner = nullptr;
  unsigned long most = 64;
  std::mutex lock;
  std::condition_variable changed;
  std::deque<Ref<CommandBuffer>> committed;
  bool stopping = false;
  long live = 0, numbers = 0;
  long done = 0;         // the last completed command buffer
  long settled = 0;      // the last one whose handlers have run and which the worker has let go
  bool* gone = nullptr;  // set when the worker itself lets the queue go
  Hazards hazards;       // the worker's
  std::thread worker;
  Queue();
  ~Queue() override;
  void work();
};

// What a command does when it runs: returns an error's text, or nothing.
using Action = std::function<std::string(Queue& queue)>;

struct CommandBuffer : Labelled {
  static constexpr const char* kName = "MTLCommandBuffer";
  enum { kNotEnqueued, kEnqueued, kCommitted, kScheduled, kCompleted, kError };
  Ref<Queue> queue;
  bool retains = true;
  int status = kNotEnqueued;
  long number = 0;
  long after = 0;  // the command buffer that had completed when this one was committed
  Object* open_encoder = nullptr;
  std::vector<Action> actions;
  std::vector<Ref<Object>> kept;
  std::vector<void*> on_scheduled, on_completed;
  std::string broken;  // a rule broken while encoding
  Ref<Error> error;
  bool asked = false;  // how it ended
  double begin = 0, end = 0;
  long dispatches = 0, bytes = 0;  // what its commands are bound to
  ~CommandBuffer() override;
  void keep(Object* object) {
    if (retains && object) kept.emplace_back(object);
  }
  void commit();
  void wait_completed();
  void run();
};

struct Encoder : Labelled {
  Ref<CommandBuffer> buffer;
  bool ended = false;
  ~Encoder() override;
  bool usable(const char* message);
  void end();
  void note(const char* rule, std::string text);  // a broken rule, which fails the command buffer
};

struct Fence : Labelled {
  static constexpr const char* kName = "MTLFence";
  Device* owner = nullptr;
  std::atomic<long> updated{0};  // the encoder after which it stands
};

Queue* new_queue(Device* device, unsigned long most);
CommandBuffer* new_command_buffer(Queue* queue, bool retains);
Object* new_compute_encoder(CommandBuffer* buffer, bool concurrent);
Object* new_blit_encoder(CommandBuffer* buffer);
bool alive(Object* object);
// The largest number since the last time that it was asked for: of dispatches or of bytes bound in
// one command buffer, of command buffers committed and not complete; or how many waits there were.
enum class Tally { dispatches, bytes, in_flight, waits };
void count(Tally what, long number);
double now();

}  // namespace sim
