#include "space.h"

#include <algorithm>

namespace jax_mps {
namespace {

constexpr int64_t kVector = 16;  // elements; blocks begin at multiples where they can

}  // namespace

ChainSpace::ChainSpace(const ChainCode& code, int64_t block) {
  merge(code);
  cut(block);
  enumerate(code);
}

int64_t ChainSpace::elements() const {
  int64_t elements = 1;
  for (int64_t size : shape) elements *= size;
  return elements;
}

// Neighbours merge where each operand steps through both as through one, each reduction reduces
// both or neither, and no index is asked of either.
void ChainSpace::merge(const ChainCode& code) {
  std::vector<bool> indexed(code.shape.size());
  for (const ChainValue& value : code.values)
    if (value.kind == ChainValue::Kind::iota) indexed[value.axis] = true;
  axis_of.assign(code.shape.size(), -1);
  strides.resize(code.operands.size());
  reduced.resize(code.outputs.size());
  bool last_indexed = true;  // nothing merges into what is before the first axis
  for (size_t a = 0; a < code.shape.size(); a++) {
    int64_t size = code.shape[a];
    if (size == 1) continue;
    bool merges = !indexed[a] && !last_indexed;
    for (size_t i = 0; i < strides.size() && merges; i++)
      merges = strides[i].back() == code.operands[i].strides[a] * size;
    for (size_t i = 0; i < reduced.size() && merges; i++)
      merges = reduced[i].back() == code.outputs[i].reduced[a];
    last_indexed = indexed[a];
    if (merges) {
      shape.back() *= size;
      for (size_t i = 0; i < strides.size(); i++) strides[i].back() = code.operands[i].strides[a];
    } else {
      shape.push_back(size);
      for (size_t i = 0; i < strides.size(); i++) strides[i].push_back(code.operands[i].strides[a]);
      for (size_t i = 0; i < reduced.size(); i++) reduced[i].push_back(code.outputs[i].reduced[a]);
    }
    axis_of[a] = static_cast<int>(shape.size()) - 1;
  }
  if (shape.empty()) {
    shape.push_back(1);
    for (auto& row : strides) row.push_back(0);
    for (auto& row : reduced) row.push_back(false);
  }
  results.resize(code.outputs.size());
  for (size_t i = 0; i < results.size(); i++) {
    int64_t stride = 1;
    results[i].resize(shape.size());
    for (size_t a = shape.size(); a-- > 0;) {
      if (reduced[i][a]) continue;
      results[i][a] = stride;
      stride *= shape[a];
    }
  }
}

void ChainSpace::cut(int64_t block) {
  axis = static_cast<int>(shape.size()) - 1;
  inner = 1;
  while (axis > 0 && inner * shape[axis] <= block) inner *= shape[axis--];
  chunk = std::min(shape[axis], std::max<int64_t>(block / inner, 1));
  if (inner > 1 || chunk == shape[axis]) return;
  int64_t pieces = (shape[axis] + chunk - 1) / chunk;  // of one size, rather than a small last one
  int64_t even = (shape[axis] + pieces - 1) / pieces;
  chunk = std::min(chunk, (even + kVector - 1) / kVector * kVector);
}

void ChainSpace::enumerate(const ChainCode& code) {
  auto kept_by_all = [&](int a) {
    return std::ranges::none_of(reduced, [&](const auto& row) { return row[a]; });
  };
  kept_blocks = reduced_blocks = 1;
  kept = 0;
  for (bool wanted : {true, false})
    for (int a = 0; a <= axis; a++) {
      if (kept_by_all(a) != wanted) continue;
      order.push_back(a);
      count.push_back(a == axis ? (shape[a] + chunk - 1) / chunk : shape[a]);
      (wanted ? kept_blocks : reduced_blocks) *= count.back();
      kept += wanted;
    }
}

bool ChainSpace::constant_inside(size_t operand) const {
  for (size_t a = axis; a < shape.size(); a++)
    if (strides[operand][a] != 0 && (static_cast<int>(a) > axis || chunk > 1)) return false;
  return true;
}

bool ChainSpace::constant_outside(size_t operand) const {
  for (int a = 0; a <= axis; a++)
    if (strides[operand][a] != 0 && (a < axis || chunk < shape[a])) return false;
  return true;
}

bool ChainSpace::contiguous(size_t operand) const {
  int64_t stride = 1;
  for (int a = static_cast<int>(shape.size()) - 1; a >= axis; a--) {
    if (strides[operand][a] != stride && (a > axis || chunk > 1)) return false;
    stride *= shape[a];
  }
  return true;
}

bool ChainSpace::reduces_blocks(size_t output, bool wanted) const {
  for (size_t i = kept; i < order.size(); i++)
    if (count[i] > 1 && reduced[output][order[i]] == wanted) return true;
  return false;
}

}  // namespace jax_mps
