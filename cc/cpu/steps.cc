// Picks a kernel for every step, and runs step by step.
#include "steps.h"

#include <algorithm>
#include <cstring>

#include "align.h"
#include "device.h"
#include "executable.h"

namespace jax_mps::cpu {
namespace {

Offer offer_of(const Step& step) {
  try {
    return offer(step.node);
  } catch (const std::exception& error) {
    throw ProgramError("line " + std::to_string(step.line) + ": " + step.node.op + ": " +
                       error.what());
  }
}

}  // namespace

Steps::Steps(const Program& program) : program_(program) {
  for (const Step& step : program.steps) {
    if (step.is_alias()) {
      kernels_.push_back(nullptr);
      chains_.push_back(nullptr);
      continue;
    }
    Offer offer = offer_of(step);
    if (!offer.kernel) throw ProgramError(step.node.op + ": " + offer.reason);
    chains_.push_back(chain_without_reductions(*offer.kernel));
    kernels_.push_back(std::move(offer.kernel));
  }
  batched_ = batched(program, chains_);
  size_t scratch = 0;
  for (size_t i = 0; i < kernels_.size(); i += batched_[i]) {
    size_t bytes = 0;
    for (size_t k = i; k < i + batched_[i]; k++)
      if (kernels_[k]) bytes += align_up(kernels_[k]->scratch_bytes());
    scratch = std::max(scratch, bytes);
  }
  copies_ = copied_outputs(program);
  scratch_offset_ = align_up(program.arena_bytes);
  memory_bytes_ = scratch_offset_ + scratch;
}

void Steps::run(const void* const* inputs, void* const* outputs, std::byte* memory) const {
  constexpr size_t kInline = 64;  // enough for a single op without a heap allocation
  void* inline_address[kInline];
  std::vector<void*> heap_address;
  void** address = inline_address;
  if (program_.values.size() > kInline) {
    heap_address.resize(program_.values.size());
    address = heap_address.data();
  }
  for (size_t i = 0; i < program_.values.size(); i++)
    address[i] = program_.values[i].offset < 0 ? nullptr : memory + program_.values[i].offset;
  for (size_t i = program_.outputs.size(); i-- > 0;) address[program_.outputs[i]] = outputs[i];
  for (size_t i = 0; i < program_.inputs.size(); i++)
    address[program_.inputs[i]] = const_cast<void*>(inputs[i]);

  const void* in_inline[kInline];
  void* out_inline[kInline];
  std::vector<const void*> in_heap;
  std::vector<void*> out_heap;
  for (size_t i = 0; i < kernels_.size(); i += batched_[i]) {
    const Step& step = program_.steps[i];
    if (batched_[i] > 1) {
      run_batched(i, address, memory + scratch_offset_);
      continue;
    }
    if (!kernels_[i]) {  // a result that the caller holds is no alias
      void*& result = address[step.results[0]];
      void* operand = static_cast<std::byte*>(address[step.operands[0]]) + step.alias_offset();
      if (result && operand) std::memcpy(result, operand, step.node.out[0].bytes());
      result = result ? result : operand;
      continue;
    }
    const void** in = in_inline;
    void** out = out_inline;
    if (step.operands.size() > kInline) in = (in_heap.resize(step.operands.size()), in_heap.data());
    if (step.results.size() > kInline)
      out = (out_heap.resize(step.results.size()), out_heap.data());
    for (size_t k = 0; k < step.operands.size(); k++) in[k] = address[step.operands[k]];
    for (size_t k = 0; k < step.results.size(); k++) out[k] = address[step.results[k]];
    try {
      kernels_[i]->run({in, out, memory + scratch_offset_});
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      throw std::runtime_error(step.node.op + ": " + error.what());
    }
  }
  for (auto [value, output] : copies_)
    if (address[value] && outputs[output] != address[value])
      std::memcpy(outputs[output], address[value], program_.values[value].type.bytes());
}

void Steps::run_batched(size_t first, void* const* address, std::byte* scratch) const {
  ChainRun runs[kBatched];
  std::vector<void*> places;  // of each step, operands and results
  size_t count = batched_[first], size = 0;
  for (size_t i = first; i < first + count; i++)
    size += program_.steps[i].operands.size() + program_.steps[i].results.size();
  places.reserve(size);
  for (size_t i = 0; i < count; i++) {
    const Step& step = program_.steps[first + i];
    void** in = places.data() + places.size();
    for (int value : step.operands) places.push_back(address[value]);
    void** out = places.data() + places.size();
    for (int value : step.results) places.push_back(address[value]);
    runs[i] = {chains_[first + i], in, out, scratch};
    scratch += align_up(kernels_[first + i]->scratch_bytes());
  }
  chain_loops().run_batched(runs, static_cast<int>(count));
}

std::vector<std::string> Steps::implementations() const {
  std::vector<std::string> names;
  for (const auto& kernel : kernels_) {
    names.push_back(kernel ? kernel->implementation() : "alias");
    for (std::string& name : kernel ? kernel->body() : std::vector<std::string>())
      names.push_back(std::move(name));
  }
  return names;
}

}  // namespace jax_mps::cpu
