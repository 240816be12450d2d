#include "recipe.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>

#include "sources.h"

namespace jax_mps::metal {
namespace {

std::map<std::string, std::vector<Implementation>>& table() {
  static std::map<std::string, std::vector<Implementation>> table;
  return table;
}

// Whether the text of a kernel says how.
bool has_second_form(const Recipe& recipe) {
  return std::ranges::any_of(recipe.dispatches, [](const Dispatch& dispatch) {
    return !dispatch.apple && !dispatch.file.empty() &&
           source(dispatch.file).find("device const CAREFUL") != std::string_view::npos;
  });
}

}  // namespace

Register::Register(const char* op, std::initializer_list<Implementation> implementations) {
  table()[op] = implementations;
}

std::vector<std::string> ops() {
  std::vector<std::string> names{"loop"};  // which the executable takes apart
  for (const auto& [name, row] : table()) names.push_back(name);
  return names;
}

std::vector<Recipe> recipes(const Node& node, std::string& reason) {
  auto row = table().find(node.op);
  if (row == table().end()) {
    reason = "the Metal device has no kernel for this op";
    return {};
  }
  for (const auto* types : {&node.in, &node.out})
    for (const TensorType& type : *types) {
      if (type.elements() == 0) reason = "an empty array needs no kernel";
      if (type.elements() >= kMaxElements) reason = "kernels take up to 2^31 elements an array";
      if (type.row) reason = "no kernel takes rows that are apart";
      if (!reason.empty()) return {};
    }
  std::vector<Recipe> found;
  for (Implementation implementation : row->second) {
    Offer offer = implementation(node);
    if (!offer.recipe) {
      reason += (reason.empty() ? "" : "; ") + offer.reason;
      continue;
    }
    for (const Dispatch& dispatch : offer.recipe->dispatches)
      if (!dispatch.apple && dispatch.uses.size() + 1 > kMaxBuffers)
        throw ProgramError(dispatch.function + " binds more than 31 buffers");
    found.push_back(std::move(*offer.recipe));
  }
  std::ranges::stable_sort(found, {}, &Recipe::cost);
  // Of the simplest of ours, unless its family has made one.
  auto last = std::find_if(found.rbegin(), found.rend(), [](const Recipe& r) { return !r.apple; });
  if (last != found.rend() && !last->second && has_second_form(*last)) {
    Recipe second = second_form(*last);
    found.push_back(std::move(second));
  }
  return found;
}

Recipe second_form(Recipe recipe) {
  for (Dispatch& dispatch : recipe.dispatches)
    if (!dispatch.apple) dispatch.definitions += "#define SECOND_FORM\n";
  recipe.implementation += ", second form";
  recipe.second = true, recipe.cost = std::numeric_limits<double>::infinity();
  return recipe;
}

size_t group_threads() {
  static const size_t threads = [] {
    const char* cap = std::getenv("JAX_MPS_METAL_THREADS");
    size_t wanted = cap ? std::strtoul(cap, nullptr, 10) : 256;
    return std::clamp<size_t>(wanted / 32 * 32, 32, 1024);
  }();
  return threads;
}

std::string storage(DType dtype, const char* name) {
  const char* type = dtype == DType::f32    ? "float"
                     : dtype == DType::f16  ? "half"
                     : dtype == DType::bf16 ? "bfloat"
                     : dtype == DType::s32  ? "int"
                     : dtype == DType::u32  ? "uint"
                                            : "uchar";
  return std::string("typedef ") + type + " " + name + ";\n";
}

Dispatch& Dispatch::over_each(int64_t count) {
  const size_t threads = group_threads();
  return over({(size_t(count) + threads - 1) / threads, 1, 1}, {threads, 1, 1});
}

Dispatch& Dispatch::over_elements(int64_t count) {
  constexpr int64_t kEach = 4, kMaxGroups = 4096;
  auto threads = static_cast<int64_t>(group_threads());
  int64_t groups = (count + kEach * threads - 1) / (kEach * threads);
  return over({static_cast<size_t>(std::clamp<int64_t>(groups, 1, kMaxGroups)), 1, 1},
              {static_cast<size_t>(threads), 1, 1});
}

}  // namespace jax_mps::metal
