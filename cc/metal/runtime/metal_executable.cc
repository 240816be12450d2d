// Compiles a program for the Metal device.
#include "metal_executable.h"

#include <algorithm>

#include "align.h"
#include "compile.h"
#include "tune.h"
#include "work.h"

namespace jax_mps::metal {
namespace {

constexpr int kAlignment = 256;

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
  // The launches know no address yet, only places.
  block_ = block_of(program_, 0);
  device_.save_pipelines();
}

MetalExecutable::~MetalExecutable() {
  Pool pool;
  workspaces_.clear();
  block_ = Block();
}

Block MetalExecutable::block_of(const Program& program, size_t arena) {
  Block block;
  place_values(block, program, arena);
  const size_t scratch = align_up<kAlignment>(arena + program.arena_bytes);
  for (const Step& step : program.steps) {
    try {
      add_step(block, step, scratch);
    } catch (const std::exception& error) {
      throw ProgramError("line " + std::to_string(step.line) + ": " + step.node.op + ": " +
                         error.what());
    }
  }
  for (auto [value, output] : copied_outputs(program))
    add_copy(block, block.place[value], {Place::In::output, output},
             program.values[value].type.bytes());
  return block;
}

Place MetalExecutable::heap_place(size_t offset, size_t bytes) {
  if (bytes == 0) return {Place::In::heap, -1};
  for (size_t i = 0; i < heap_.size(); i++)
    if (heap_[i].offset == offset && heap_[i].bytes == bytes)
      return {Place::In::heap, static_cast<int>(i)};
  heap_.push_back({offset, bytes});
  return {Place::In::heap, static_cast<int>(heap_.size()) - 1};
}

void MetalExecutable::place_values(Block& block, const Program& program, size_t arena) {
  constexpr Place kNowhere{Place::In::heap, -1};
  block.place.assign(program.values.size(), kNowhere);
  for (size_t i = 0; i < program.values.size(); i++) {
    const Value& value = program.values[i];
    if (value.offset >= 0) block.place[i] = heap_place(arena + value.offset, value.type.bytes());
  }
  for (size_t i = program.outputs.size(); i-- > 0;)
    block.place[program.outputs[i]] = {Place::In::output, static_cast<int>(i)};
  for (size_t i = 0; i < program.inputs.size(); i++)
    block.place[program.inputs[i]] = {Place::In::input, static_cast<int>(i)};
}

void MetalExecutable::add_step(Block& block, const Step& step, size_t scratch) {
  if (step.node.op == "part") throw ProgramError("part: the Metal device has none");
  if (step.is_alias()) {
    Place &result = block.place[step.results[0]], operand = block.place[step.operands[0]];
    if (result.index >= 0)  // a result that the caller holds is no alias
      add_copy(block, operand, result, step.node.out[0].bytes());
    else
      result = operand;
    names_.push_back("alias");
    return;
  }
  if (step.node.op == "loop") return add_loop(block, step, scratch);
  std::string reason;
  std::vector<Recipe> candidates = recipes(step.node, reason);
  if (candidates.empty()) throw ProgramError(reason);
  const Recipe& recipe =
      candidates[candidate_ ? *candidate_ : choose(device_, step.node, candidates)];
  add_recipe(block, recipe, step, scratch);
  names_.push_back(recipe.implementation);
}

void MetalExecutable::add_recipe(Block& block, const Recipe& recipe, const Step& step,
                                 size_t scratch) {
  for (const Dispatch& dispatch : recipe.dispatches) {
    Launch launch{dispatch, {}, {}, {}};
    launch.seconds = seconds_of(dispatch);
    if (!dispatch.apple) launch.pipeline = device_.pipeline(dispatch);
    apple_ = apple_ || dispatch.apple;
    launch.label = NS::RetainPtr(ns_string(step.node.op + " (" + dispatch.function + ")"));
    for (const Use& use : dispatch.uses) {
      const Span& span = use.span;
      Place place;
      size_t offset = span.offset;
      if (span.of == Span::Of::scratch) {
        const Span& whole = recipe.scratch_of(span);
        place = heap_place(scratch + whole.offset, whole.bytes);
        offset -= whole.offset;
      } else {
        bool in = span.of == Span::Of::operand;
        place = block.place[in ? step.operands[span.index] : step.results[span.index]];
      }
      launch.arguments.push_back({place, offset, span.bytes, use.reads, use.writes});
    }
    bytes_ += sizeof(Launch) + 1024;
    block.items.emplace_back(std::move(launch));
  }
}

void MetalExecutable::add_loop(Block& block, const Step& step, size_t scratch) {
  auto loop = std::make_unique<Loop>(step.node);
  for (int value : step.operands) loop->operands.push_back(block.place[value]);
  for (int value : step.results) loop->results.push_back(block.place[value]);
  for (const LoopShape::Carry& carry : loop->shape.carry) {
    loop->copies.push_back(copy_of(carry.bytes));
    loop->second.push_back(heap_place(scratch, carry.in_place ? 0 : carry.bytes));
    if (!carry.in_place) scratch += align_up<kAlignment>(carry.bytes);
  }
  names_.push_back("loop");
  loop->body = block_of(*step.node.body, scratch);
  block.items.emplace_back(std::move(loop));
}

Launch MetalExecutable::copy_of(size_t bytes) {
  bool words = bytes % 4 == 0;
  auto count = static_cast<int>(words ? bytes / 4 : bytes);
  Dispatch dispatch("copy", "copy", words ? "typedef int T;\n" : "typedef uchar T;\n");
  dispatch.parameters(count).over_elements(count);
  dispatch.reads({Span::Of::operand, 0, 0, bytes}).writes({Span::Of::result, 0, 0, bytes});
  Launch launch{dispatch, device_.pipeline(dispatch), NS::RetainPtr(ns_string("copy")), {}};
  launch.arguments = {{{}, 0, bytes, true, false}, {{}, 0, bytes, false, true}};
  launch.is_copy = true;
  launch.seconds = seconds_of(dispatch);
  return launch;
}

void MetalExecutable::add_copy(Block& block, Place from, Place to, size_t bytes) {
  if (bytes == 0 || from.index < 0) return;
  Launch launch = copy_of(bytes);
  launch.arguments[0].place = from, launch.arguments[1].place = to;
  block.items.emplace_back(std::move(launch));
}

}  // namespace jax_mps::metal
