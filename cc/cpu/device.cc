#include "device.h"

#include <algorithm>
#include <map>

#include "cpu/onednn/guard.h"
#include "cpu/onednn/onednn.h"
#include "isa.h"
#include "threads.h"
#include "widen.h"

namespace jax_mps::cpu {
namespace {

struct Row {
  std::vector<Implementation> implementations;
  bool pitched_rows;
};

std::map<std::string, Row>& table() {
  static std::map<std::string, Row> table;
  return table;
}

bool has_half(const Node& node) {
  auto half = [](const TensorType& type) { return is_half(type.dtype); };
  return std::ranges::any_of(node.in, half) || std::ranges::any_of(node.out, half);
}

bool has_pitched_rows(const Node& node) {
  auto pitched = [](const TensorType& type) { return type.row != 0; };
  return std::ranges::any_of(node.in, pitched) || std::ranges::any_of(node.out, pitched);
}

Offer first_offer(const Node& node, const std::vector<Implementation>& implementations) {
  std::string reasons;
  for (Implementation implementation : implementations) {
    Offer offer = implementation(node);
    if (offer.kernel) return offer;
    reasons += (reasons.empty() ? "" : "; ") + offer.reason;
  }
  return Offer::none(reasons);
}

}  // namespace

Register::Register(const char* op, std::initializer_list<Implementation> implementations,
                   bool pitched_rows) {
  table()[op] = {implementations, pitched_rows};
}

std::vector<std::string> ops() {
  std::vector<std::string> names;
  for (const auto& [name, row] : table()) names.push_back(name);
  return names;
}

Offer offer(const Node& node) {
  auto row = table().find(node.op);
  if (row == table().end()) return Offer::none("the CPU device has no kernel for this op");
  if (!node.body)
    for (const auto* types : {&node.in, &node.out})
      for (const TensorType& type : *types)
        if (type.elements() == 0) return Offer::none("an empty array needs no kernel");
  bool pitched = has_pitched_rows(node);
  if (pitched && !row->second.pitched_rows)
    return Offer::none("no kernel takes rows that are apart");
  Offer native = first_offer(node, row->second.implementations);
  if (!native.kernel && has_half(node) && !node.body && !pitched) {
    Offer wide = first_offer(widened(node), row->second.implementations);
    if (wide.kernel) native.kernel = widen(node, std::move(wide.kernel));
  }
  if (native.kernel) native.kernel = guarded(node, std::move(native.kernel));
  return native;
}

std::string versions() {
  return std::string(isa_name()) + ", " + onednn_version() + ", " + std::to_string(max_threads()) +
         " threads";
}

}  // namespace jax_mps::cpu
