#include "encoding.h"

namespace jax_mps::metal {
namespace {

constexpr size_t kLaunches = 8192;  // of one command buffer
constexpr size_t kNamed = 8;

}  // namespace

Encoding::~Encoding() {
  end_encoder();
  for (MTL::CommandBuffer* each : running_) each->waitUntilCompleted();
  // Where a kernel of Apple's committed it, and threw.
  if (commands_ && commands_->status() >= MTL::CommandBufferStatusCommitted)
    commands_->waitUntilCompleted();
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
  if (in_buffer_ == kLaunches) commit();
  begin();
  const bool waits = hazards_.add(ranges);
  encode(launch, bound, waits);
  in_buffer_++, count_++;
  if (added_.size() < kNamed) added_.push_back(&launch);
}

void Encoding::encode(const Launch& launch, const std::vector<Bound>& bound, bool waits) {
  const Dispatch& dispatch = launch.dispatch;
  device_.statistics.dispatches++;
  if (dispatch.foreign) {  // encodes itself; encoders of one command buffer run in order
    end_encoder();
    MTL::CommandBuffer* next = dispatch.foreign(commands_, bound);
    if (next != commands_) running_.push_back(std::exchange(commands_, next));
    hazards_ = Hazards();
    return;
  }
  if (!encoder_) {
    encoder_ = commands_->computeCommandEncoder(MTL::DispatchTypeConcurrent);
    if (!encoder_) throw MetalError("Metal gives no encoder");
  } else if (waits) {
    encoder_->memoryBarrier(MTL::BarrierScopeBuffers);
    device_.statistics.barriers++;
  }
  encoder_->insertDebugSignpost(launch.label.get());
  encoder_->setComputePipelineState(launch.pipeline.get());
  if (!dispatch.parameter_bytes.empty())
    encoder_->setBytes(dispatch.parameter_bytes.data(), dispatch.parameter_bytes.size(), 0);
  for (size_t i = 0; i < bound.size(); i++)
    encoder_->setBuffer(bound[i].buffer, bound[i].offset, i + 1);
  auto size = [](Dispatch::Size s) { return MTL::Size(s[0], s[1], s[2]); };
  encoder_->dispatchThreadgroups(size(dispatch.groups), size(dispatch.threads));
}

void Encoding::begin() {
  if (commands_) return;
  auto descriptor = own(MTL::CommandBufferDescriptor::alloc()->init());
  descriptor->setErrorOptions(MTL::CommandBufferErrorOptionEncoderExecutionStatus);
  commands_ = device_.queue()->commandBuffer(descriptor.get());
  if (!commands_) throw MetalError("Metal gives no command buffer");
}

void Encoding::end_encoder() {
  if (encoder_) encoder_->endEncoding();
  encoder_ = nullptr;
}

// A buffer begins when the one before it is complete: nothing else orders their memory.
void Encoding::commit() {
  if (!commands_) return;
  end_encoder();
  wait();
  commands_->commit();
  running_.push_back(std::exchange(commands_, nullptr));
  in_buffer_ = 0;
  hazards_ = Hazards();
}

void Encoding::wait() {
  for (MTL::CommandBuffer* each : running_) {
    each->waitUntilCompleted();
    device_.statistics.command_buffers++;
    if (each->status() != MTL::CommandBufferStatusCompleted) fail(each);
    const double seconds = each->GPUEndTime() - each->GPUStartTime();
    seconds_ += seconds;
    device_.statistics.gpu_nanoseconds += static_cast<int64_t>(seconds * 1e9);
  }
  running_.clear();
}

void Encoding::run() {
  commit();
  wait();
}

// Names the kernel that Metal was at, or the first ones where it does not say.
void Encoding::fail(MTL::CommandBuffer* buffer) const {
  NS::Error* error = buffer->error();
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
    for (const Launch* launch : added_)
      kernel += (kernel.empty() ? "" : ", ") + text_of(launch->label.get());
    if (added_.size() < count_)
      kernel += " and " + std::to_string(count_ - added_.size()) + " more";
  }
  throw MetalError(kernel + ": the GPU stopped: " + words_of(error));
}

}  // namespace jax_mps::metal
