#include "loop.h"

#include "require.h"

namespace jax_mps {
namespace {

size_t count(const Node& node, const std::string& name, size_t limit = size_t{1} << 40) {
  int64_t value = node.attributes.integer(name);
  require(value >= 0 && value <= static_cast<int64_t>(limit),
          "attribute '" + name + "' is out of range");
  return static_cast<size_t>(value);
}

// A value of the body may have another shape of as many elements.
void require_slice(const TensorType& type, const TensorType& slice, int64_t length, bool whole) {
  int64_t elements = whole ? type.elements() : 1;
  for (int axis = 1; axis < type.rank() && !whole; axis++) elements *= type.shape[axis];
  bool leads = whole || (type.rank() > 0 && type.shape[0] == length);
  require(leads && type.dtype == slice.dtype && !type.row && slice.elements() == elements,
          "a value of type " + type.text() + " is " + slice.text() + " inside of the body of " +
              std::to_string(length) + " iterations");
}

}  // namespace

LoopShape::LoopShape(const Node& node) {
  require(node.body != nullptr, "a loop has a body");
  const Program& body = *node.body;
  consts = count(node, "consts"), length = static_cast<int64_t>(count(node, "length"));
  reverse = node.attributes.boolean("reverse");
  carry.resize(count(node, "carry", node.out.size()));
  require(body.inputs.size() == node.in.size() && body.outputs.size() == node.out.size() &&
              consts + carry.size() <= node.in.size() && carry.size() <= node.out.size(),
          "the body's inputs and outputs must be as many as the operands and results");
  for (size_t i = 0; i < node.in.size(); i++) {
    const TensorType& slice = body.values[body.inputs[i]].type;
    bool whole = i < first_slice();
    if (!whole) xs_bytes.push_back(slice.bytes());
    require_slice(node.in[i], slice, length, whole);
  }
  for (size_t i = 0; i < node.out.size(); i++) {
    const TensorType& slice = body.values[body.outputs[i]].type;
    bool whole = i < carry.size();
    if (whole) {
      carry[i] = {slice.bytes(), false};
      require_slice(node.in[consts + i], slice, length, whole);
    } else {
      ys_bytes.push_back(slice.bytes());
    }
    require_slice(node.out[i], slice, length, whole);
  }
  for (int64_t i : node.attributes.integers("in_place")) {
    require(i >= 0 && i < static_cast<int64_t>(carry.size()),
            "attribute 'in_place' must be numbers of carries");
    carry[i].in_place = true;
  }
}

}  // namespace jax_mps
