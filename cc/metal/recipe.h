// What the Metal device offers for a node: a recipe, that is a list of dispatches as plain data, or
// the reason why there is none. Recipes need no device: executable.cc binds their spans to buffers.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ir/require.h"

namespace MTL {
class CommandBuffer;
class Buffer;
}  // namespace MTL

namespace jax_mps::metal {

// Some bytes of an operand, of a result, or of the node's scratch memory.
struct Span {
  enum class Of : uint8_t { operand, result, scratch };
  Of of;
  int index;
  size_t offset, bytes;

  Span part(size_t from, size_t count) const { return {of, index, offset + from, count}; }
};

struct Use {
  Span span;
  bool reads, writes;
};

constexpr size_t kMaxBuffers = 31;           // slots of a kernel
constexpr size_t kMaxParameterBytes = 4096;  // of setBytes

// A buffer as Apple's own kernels take it: some bytes of it from an offset on.
struct Bound {
  MTL::Buffer* buffer;
  size_t offset, bytes;
};

// One launch: parameters at slot 0, then the spans in the order in which they are named.
class Dispatch {
 public:
  using Size = std::array<size_t, 3>;

  Dispatch(std::string file, std::string function, std::string definitions)
      : file(std::move(file)), function(std::move(function)), definitions(std::move(definitions)) {}

  Dispatch& constants(std::initializer_list<int> values) {
    function_constants.assign(values);
    return *this;
  }
  template <class P>
  Dispatch& parameters(const P& values) {
    static_assert(sizeof(P) <= kMaxParameterBytes && std::is_trivially_copyable_v<P>);
    parameter_bytes.resize(sizeof(P));
    std::memcpy(parameter_bytes.data(), &values, sizeof(P));
    return *this;
  }
  Dispatch& reads(Span span) { return use({span, true, false}); }
  Dispatch& writes(Span span) { return use({span, false, true}); }
  Dispatch& updates(Span span) { return use({span, true, true}); }
  Dispatch& over(Size groups_, Size threads_) {
    groups = groups_, threads = threads_;
    return *this;
  }
  // One thread for some of `count` elements, in a loop of the grid's stride.
  Dispatch& over_elements(int64_t count);
  // One thread for each of `count` elements.
  Dispatch& over_each(int64_t count);
  // How many operations it has, for the estimate of its time: unless told, one for each word.
  Dispatch& computes(double count) {
    operations = count;
    return *this;
  }
  // Its grid may be cut: the kernel adds `first`, three of the parameters that are set already, to
  // the number of its threadgroup.
  template <class P>
  Dispatch& may_be_cut(int (P::*first)[3]) {
    P values;
    std::memcpy(&values, parameter_bytes.data(), sizeof(P));
    first_group =
        reinterpret_cast<std::byte*>(&(values.*first)) - reinterpret_cast<std::byte*>(&values);
    return *this;
  }

  std::string file;         // of kernels/, without ".metal"; empty for generated text
  std::string function;     // its name
  std::string definitions;  // put before the file's text, such as "typedef float T;\n"
  std::string text;         // generated text
  std::vector<int> function_constants;
  std::vector<std::byte> parameter_bytes;
  std::vector<Use> uses;
  Size groups{1, 1, 1}, threads{1, 1, 1};
  double operations = 0;
  std::optional<size_t> first_group;  // where the parameters have it
  // In place of all that: a kernel of Apple's, which encodes itself onto a command buffer. It may
  // commit that one; what follows goes onto the one that it gives.
  std::function<MTL::CommandBuffer*(MTL::CommandBuffer*, const std::vector<Bound>&)> apple;

 private:
  Dispatch& use(Use use) {
    uses.push_back(use);
    return *this;
  }
};

class Recipe {
 public:
  Recipe(const Node& node, std::string implementation)
      : implementation(std::move(implementation)), node_(&node) {}

  Span operand(int i) const { return {Span::Of::operand, i, 0, node_->in[i].bytes()}; }
  Span result(int i) const { return {Span::Of::result, i, 0, node_->out[i].bytes()}; }
  Span scratch(size_t bytes) {
    Span span{Span::Of::scratch, 0, scratch_bytes, bytes};
    scratch_bytes += (bytes + 255) / 256 * 256;
    scratch_spans.push_back(span);
    return span;
  }
  // The whole span that scratch() gave, of which this one is a part.
  const Span& scratch_of(const Span& part) const {
    return *std::prev(std::upper_bound(scratch_spans.begin(), scratch_spans.end(), part.offset,
                                       [](size_t at, const Span& s) { return at < s.offset; }));
  }
  Dispatch& dispatch(std::string file, std::string function, std::string definitions = "") {
    return dispatches.emplace_back(std::move(file), std::move(function), std::move(definitions));
  }

  std::string implementation;  // the name that `explain` shows
  std::vector<Dispatch> dispatches;
  size_t scratch_bytes = 0;
  std::vector<Span> scratch_spans;
  bool second = false;  // whether it is a second form, which serves where no first one does
  bool apple = false;   // whether a kernel of Apple's takes part: such a recipe must win a contest
  double cost =
      0;  // an estimate, comparable among the recipes of one node: they are tried in order

 private:
  const Node* node_;  // while it is being made
};

// The recipe with kernels that compilers are less likely to get wrong (kernels/common.h).
Recipe second_form(Recipe recipe);

struct Offer {
  std::optional<Recipe> recipe;
  std::string reason;

  Offer(Recipe recipe) : recipe(std::move(recipe)) {}
  static Offer none(std::string reason) {
    Offer offer;
    offer.reason = std::move(reason);
    return offer;
  }

 private:
  Offer() = default;
};

using Implementation = Offer (*)(const Node& node);

// Registers the implementations of an op, the one that is likely fastest first, the simplest last.
// One static object per op, in the file of its family.
struct Register {
  Register(const char* op, std::initializer_list<Implementation> implementations);
};

// Those that the device has kernels of.
std::vector<std::string> ops();

// All recipes for a node, cheapest first by their own estimates; if there is none, `reason` names
// every refusal.
std::vector<Recipe> recipes(const Node& node, std::string& reason);

// Threads of a one-dimensional threadgroup: 256, or what JAX_MPS_METAL_THREADS caps it to.
size_t group_threads();

// "typedef float T;\n" for the dtype; an empty string if kernels have no such storage.
std::string storage(DType dtype, const char* name = "T");
// Sizes go to kernels as 32-bit numbers.
constexpr int64_t kMaxElements = int64_t{1} << 31;

}  // namespace jax_mps::metal
