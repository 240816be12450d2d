#include "encoding.h"

namespace jax_mps::metal {
namespace {

constexpr size_t kNamed = 8;

// macOS tells of a time-out by a code, or by words alone.
Stopped::Why why_of(const NS::Error* error) {
  if (!error) return Stopped::Why::other;
  const std::string words = words_of(error);
  auto says = [&](const char* text) { return words.find(text) != std::string::npos; };
  if (error->code() == MTL::CommandBufferErrorTimeout || says("CallbackErrorTimeout") ||
      says("ImpactingInteractivity") || says("Impacting Interactivity"))
    return Stopped::Why::time_out;
  return says("InnocentVictim") || says("Innocent Victim") ? Stopped::Why::victim
                                                           : Stopped::Why::other;
}

}  // namespace

Encoding::~Encoding() {
  end_encoder();
  // Also one that a kernel of Apple's committed, and then threw.
  if (now_.buffer && now_.buffer->status() >= MTL::CommandBufferStatusCommitted)
    running_.push_back(now_);
  for (const Commands& each : running_) {
    each.buffer->waitUntilCompleted();
    static_cast<void>(each.buffer->status());  // of several that fail the first is reported
  }
}

Located Encoding::locate(Place place, const Frame& frame) const {
  if (place.index < 0) return {};
  if (place.in == Place::In::input) return frame.inputs[place.index];
  if (place.in == Place::In::output) return frame.outputs[place.index];
  auto [buffer, offset] = workspace_.buffer(place.index);
  return {buffer, offset, true, heap_[place.index].offset};
}

void Encoding::add(const Block& block, const Frame& frame) {
  std::vector<Located> arrays;
  for (const auto& item : block.items) {
    if (const auto* loop = std::get_if<std::unique_ptr<Loop>>(&item)) {
      add(**loop, frame);
      continue;
    }
    const Launch& launch = std::get<Launch>(item);
    arrays.clear();
    for (const Argument& a : launch.arguments) arrays.push_back(locate(a.place, frame));
    add(launch, arrays);
  }
}

void Encoding::add(const Loop& loop, const Frame& frame) {
  const LoopShape& s = loop.shape;
  const size_t carries = s.carry.size();
  Frame whole, body;
  std::vector<Located> second;
  for (Place place : loop.operands) whole.inputs.push_back(locate(place, frame));
  for (Place place : loop.results) whole.outputs.push_back(locate(place, frame));
  for (Place place : loop.second) second.push_back(locate(place, frame));
  body = whole;
  for (size_t i = 0; i < carries; i++) {
    // An operand may lie where the result does; the first iteration must not write what it reads.
    Located& first = body.inputs[s.first_carry() + i];
    const Located& result = whole.outputs[i];
    if (s.carry[i].bytes == 0) continue;
    if (!first.is(result)) {
      if (s.length == 0) add(loop.copies[i], {first, result});
    } else if (!s.carry[i].in_place && s.length % 2 == 1) {
      add(loop.copies[i], {first, second[i]});
      first = second[i];
    }
  }
  auto slice = [&](const Located& array, int64_t at, size_t bytes) {
    Located part = array.at(at * bytes);
    if (!part.end) part.end = array.begin + s.length * bytes;
    return part;
  };
  for (int64_t t = 0; t < s.length; t++) {
    const int64_t at = s.slice_of(t);
    for (size_t i = 0; i < carries; i++)
      body.outputs[i] = s.is_second(i, t) ? second[i] : whole.outputs[i];
    for (size_t i = 0; i < s.xs_bytes.size(); i++) {
      const size_t k = s.first_slice() + i;
      body.inputs[k] = slice(whole.inputs[k], at, s.xs_bytes[i]);
    }
    for (size_t i = 0; i < s.ys_bytes.size(); i++)
      body.outputs[carries + i] = slice(whole.outputs[carries + i], at, s.ys_bytes[i]);
    add(loop.body, body);
    for (size_t i = 0; i < carries; i++) body.inputs[s.first_carry() + i] = body.outputs[i];
  }
}

void Encoding::add(const Launch& launch, const std::vector<Located>& arrays) {
  if (launch.is_copy && arrays[0].is(arrays[1])) return;
  std::vector<Range> ranges;
  std::vector<Bound> bound;
  for (size_t i = 0; i < arrays.size(); i++) {
    const Argument& a = launch.arguments[i];
    const Located& array = arrays[i];
    const uintptr_t begin = array.begin + a.offset;
    // A slice counts as what its array has from there on: as much as its binding gives access to.
    const uintptr_t end = array.end ? array.end : begin + a.bytes;
    ranges.push_back({array.heap, begin, end, a.writes});
    bound.push_back({array.buffer, array.offset + a.offset, a.bytes});
  }
  const std::vector<Piece> pieces = pieces_of(launch.dispatch, launch.seconds, most_);
  for (const Piece& piece : pieces) {
    const double seconds = launch.seconds / double(pieces.size());
    if (now_.count > 0 && now_.seconds + seconds > most_) commit(/*last=*/false);
    begin();
    const bool waits = hazards_.add(ranges);
    encode(launch, piece, bound, waits);
    now_.count++, now_.seconds += seconds;
    if (now_.first.size() < kNamed) now_.first.push_back(&launch);
  }
}

void Encoding::encode(const Launch& launch, const Piece& piece, const std::vector<Bound>& bound,
                      bool waits) {
  const Dispatch& dispatch = launch.dispatch;
  device_.statistics.dispatches++;
  if (dispatch.apple) {  // encodes itself; encoders of one command buffer run in order
    end_encoder();
    MTL::CommandBuffer* next = dispatch.apple(now_.buffer, bound);
    if (next != now_.buffer) {
      Commands rest;
      rest.buffer = next;
      running_.push_back(std::exchange(now_, rest));
    }
    hazards_ = Hazards();
    return;
  }
  if (!encoder_) {
    begin_encoder();
  } else if (waits) {
    encoder_->memoryBarrier(MTL::BarrierScopeBuffers);
    device_.statistics.barriers++;
  }
  encoder_->insertDebugSignpost(launch.label.get());
  encoder_->setComputePipelineState(launch.pipeline.get());
  if (!dispatch.parameter_bytes.empty())
    encoder_->setBytes(dispatch.parameter_bytes.data(), dispatch.parameter_bytes.size(), 0);
  if (piece.first != Dispatch::Size{}) {
    std::vector<std::byte> parameters = dispatch.parameter_bytes;
    int first[3];
    std::ranges::transform(piece.first, first, [](size_t group) { return int(group); });
    std::memcpy(parameters.data() + *dispatch.first_group, first, sizeof(first));
    encoder_->setBytes(parameters.data(), parameters.size(), 0);
  }
  for (size_t i = 0; i < bound.size(); i++)
    encoder_->setBuffer(bound[i].buffer, bound[i].offset, i + 1);
  auto size = [](Dispatch::Size s) { return MTL::Size(s[0], s[1], s[2]); };
  encoder_->dispatchThreadgroups(size(piece.groups), size(dispatch.threads));
}

void Encoding::begin() {
  if (now_.buffer) return;
  auto descriptor = own(MTL::CommandBufferDescriptor::alloc()->init());
  descriptor->setErrorOptions(MTL::CommandBufferErrorOptionEncoderExecutionStatus);
  now_.buffer = device_.queue()->commandBuffer(descriptor.get());
  if (!now_.buffer) throw MetalError("Metal gives no command buffer");
}

// Nothing but the fence orders the heap's memory between command buffers.
void Encoding::begin_encoder() {
  encoder_ = now_.buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent);
  if (!encoder_) throw MetalError("Metal gives no encoder");
  if (fence_) encoder_->waitForFence(fence_.get());
}

void Encoding::end_encoder() {
  if (encoder_) encoder_->endEncoding();
  encoder_ = nullptr;
}

void Encoding::commit(bool last) {
  if (!now_.buffer) return;
  if (!last && encoder_) {
    fence_ = own(device_.metal()->newFence());
    if (!fence_) throw MetalError("Metal gives no fence");
    encoder_->updateFence(fence_.get());
  }
  end_encoder();
  // What would follow a buffer that failed is not begun.
  for (const Commands& each : running_)
    if (each.buffer->status() == MTL::CommandBufferStatusError) fail(each);
  now_.buffer->commit();
  running_.push_back(std::exchange(now_, Commands()));
  hazards_ = Hazards();
}

void Encoding::wait() {
  for (const Commands& each : running_) {
    each.buffer->waitUntilCompleted();
    device_.statistics.command_buffers++;
    if (each.buffer->status() != MTL::CommandBufferStatusCompleted) fail(each);
    const double seconds = each.buffer->GPUEndTime() - each.buffer->GPUStartTime();
    seconds_ += seconds;
    device_.statistics.gpu_nanoseconds += static_cast<int64_t>(seconds * 1e9);
  }
  running_.clear();
}

void Encoding::run() {
  commit(/*last=*/true);
  wait();
}

// Names the kernel that Metal was at, or the first ones where it does not say.
void Encoding::fail(const Commands& commands) {
  NS::Error* error = commands.buffer->error();
  std::string kernel;
  NS::ErrorUserInfoKey key = MTL::CommandBufferEncoderInfoErrorKey;
  if (error && key && error->userInfo()) {
    auto* encoders = error->userInfo()->object<NS::Array>(key);
    for (NS::UInteger i = 0; encoders && i < encoders->count(); i++) {
      auto* info = encoders->object<MTL::CommandBufferEncoderInfo>(i);
      NS::Array* signposts = info->debugSignposts();
      bool at_fault = info->errorState() == MTL::CommandEncoderErrorStateFaulted ||
                      info->errorState() == MTL::CommandEncoderErrorStateAffected;
      if (at_fault && signposts && signposts->count() > 0)
        kernel = text_of(signposts->object<NS::String>(signposts->count() - 1));
    }
  }
  if (kernel.empty()) {
    for (const Launch* launch : commands.first)
      kernel += (kernel.empty() ? "" : ", ") + text_of(launch->label.get());
    if (commands.first.size() < commands.count)
      kernel += " and " + std::to_string(commands.count - commands.first.size()) + " more";
  }
  throw Stopped(why_of(error), kernel + ": the GPU stopped: " + words_of(error));
}

}  // namespace jax_mps::metal
