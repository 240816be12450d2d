// Compiles a program for the Metal device.
#include "executable.h"

#include <algorithm>

#include "compile.h"
#include "tune.h"

namespace jax_mps::metal {
namespace {

constexpr size_t kAlignment = 256;
size_t align_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Device& device_or_error() {
  Device* device = Device::get();
  if (!device) throw ProgramError("this machine has no Metal device");
  return *device;
}

}  // namespace

bool available() { return Device::get() != nullptr; }

std::shared_ptr<const Executable> compile(Program program, size_t text_bytes) {
  return std::make_shared<MetalExecutable>(std::move(program), text_bytes);
}

void release_pool() { Windows::release_pool(); }

MetalExecutable::MetalExecutable(Program program, size_t text_bytes,
                                 std::optional<size_t> candidate)
    : Executable(std::move(program)), device_(device_or_error()), candidate_(candidate) {
  Pool pool;
  bytes_ = sizeof(*this) + text_bytes * 4;
  // The launches know no address yet, only places; those of scratch memory follow the arena.
  scratch_offset_ = align_up(program_.arena_bytes);
  place_values();
  for (const Step& step : program_.steps) {
    try {
      add_step(step);
    } catch (const std::exception& error) {
      throw ProgramError("line " + std::to_string(step.line) + ": " + step.node.op + ": " +
                         error.what());
    }
  }
  for (auto [value, output] : copied_outputs(program_))
    add_copy(place_[value], {Place::In::output, output}, program_.values[value].type.bytes());
  device_.save_pipelines();
}

MetalExecutable::~MetalExecutable() {
  Pool pool;
  workspaces_.clear();
  launches_.clear();
}

MetalExecutable::Place MetalExecutable::heap_place(size_t offset, size_t bytes) {
  for (size_t i = 0; i < heap_.size(); i++)
    if (heap_[i].offset == offset && heap_[i].bytes == bytes)
      return {Place::In::heap, static_cast<int>(i)};
  heap_.push_back({offset, bytes});
  return {Place::In::heap, static_cast<int>(heap_.size()) - 1};
}

void MetalExecutable::place_values() {
  constexpr Place kNowhere{Place::In::heap, -1};
  place_.assign(program_.values.size(), kNowhere);
  for (size_t i = 0; i < program_.values.size(); i++) {
    const Value& value = program_.values[i];
    if (value.offset >= 0 && value.type.bytes() > 0)
      place_[i] = heap_place(value.offset, value.type.bytes());
  }
  for (size_t i = program_.outputs.size(); i-- > 0;)
    place_[program_.outputs[i]] = {Place::In::output, static_cast<int>(i)};
  for (size_t i = 0; i < program_.inputs.size(); i++)
    place_[program_.inputs[i]] = {Place::In::input, static_cast<int>(i)};
}

void MetalExecutable::add_step(const Step& step) {
  if (step.is_alias()) {
    Place &result = place_[step.results[0]], operand = place_[step.operands[0]];
    if (result.index >= 0)  // a result that the caller holds is no alias
      add_copy(operand, result, step.node.out[0].bytes());
    else
      result = operand;
    names_.push_back("alias");
    return;
  }
  std::string reason;
  std::vector<Recipe> candidates = recipes(step.node, reason);
  if (candidates.empty()) throw ProgramError(reason);
  const Recipe& recipe =
      candidates[candidate_ ? *candidate_ : choose(device_, step.node, candidates)];
  add_recipe(recipe, step);
  names_.push_back(recipe.implementation);
}

void MetalExecutable::add_recipe(const Recipe& recipe, const Step& step) {
  for (const Dispatch& dispatch : recipe.dispatches) {
    Launch launch{dispatch, {}, {}, {}};
    if (!dispatch.foreign) launch.pipeline = device_.pipeline(dispatch);
    launch.label = NS::RetainPtr(ns_string(step.node.op + " (" + dispatch.function + ")"));
    for (const Use& use : dispatch.uses) {
      const Span& span = use.span;
      Place place;
      size_t offset = span.offset;
      if (span.of == Span::Of::scratch) {
        const Span& whole = recipe.scratch_of(span);
        place = heap_place(scratch_offset_ + whole.offset, whole.bytes);
        offset -= whole.offset;
      } else {
        bool in = span.of == Span::Of::operand;
        place = place_[in ? step.operands[span.index] : step.results[span.index]];
      }
      launch.arguments.push_back({place, offset, span.bytes, use.reads, use.writes});
    }
    bytes_ += sizeof(Launch) + 1024;
    launches_.push_back(std::move(launch));
  }
  scratch_bytes_ = std::max(scratch_bytes_, recipe.scratch_bytes);
}

void MetalExecutable::add_copy(Place from, Place to, size_t bytes) {
  if (bytes == 0 || from.index < 0) return;
  bool words = bytes % 4 == 0;
  auto count = static_cast<int>(words ? bytes / 4 : bytes);
  Dispatch dispatch("copy", "copy", words ? "typedef int T;\n" : "typedef uchar T;\n");
  dispatch.parameters(count).over_elements(count);
  Launch launch{dispatch, device_.pipeline(dispatch), NS::RetainPtr(ns_string("copy")), {}};
  launch.arguments = {{from, 0, bytes, true, false}, {to, 0, bytes, false, true}};
  launches_.push_back(std::move(launch));
}

}  // namespace jax_mps::metal
