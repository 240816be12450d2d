// chain(operands...): elementwise code as generated kernels. One stores; one for each set of
// reduced axes makes parts of the reductions, which fold.metal joins. Sizes and strides are
// parameters, so chains of the same code share a kernel.
#include "chain/space.h"
#include "chain_msl.h"
#include "family.h"
#include "metal/kernels/fold_parameters.h"
#include "metal/sources.h"

namespace jax_mps::metal {
namespace {

using Kind = ChainValue::Kind;

constexpr size_t kMaxArrays = kMaxBuffers - 1;
constexpr int64_t kSimd = 32;

// Writes one kernel that computes some of the outputs.
class Writer {
 public:
  Writer(const ChainCode& code, const ChainSpace& space, std::vector<int> outputs, bool second)
      : code_(code),
        space_(space),
        outputs_(std::move(outputs)),
        used_(code.values.size()),
        second_(second) {
    for (int output : outputs_) used_[code.outputs[output].value] = true;
    for (size_t v = code.values.size(); v-- > 0;)
      for (int i = 0; used_[v] && i < code.values[v].count; i++)
        used_[code.values[v].from[i]] = true;
    for (size_t v = 0; v < code.operands.size(); v++)
      if (used_[v]) operands_.push_back(static_cast<int>(v));
  }

  const std::vector<int>& operands() const { return operands_; }
  const std::vector<int>& outputs() const { return outputs_; }
  size_t arrays() const { return operands_.size() + outputs_.size(); }

  // The kernel that stores all outputs, one thread for some elements.
  std::string stores() {
    begin({});
    text_ += "uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {\n";
    text_ += "  for (uint i = first; i < uint(" + parameter(static_cast<int>(space_.elements())) +
             "); i += step) {\n";
    std::vector<int> axes(space_.shape.size());
    for (size_t a = 0; a < axes.size(); a++) axes[a] = static_cast<int>(a);
    indices("i", axes);
    body();
    for (size_t k = 0; k < outputs_.size(); k++) {
      const auto& output = code_.outputs[outputs_[k]];
      text_ += "    y" + std::to_string(k) + "[i] = " + element_type(output.storage, output.type) +
               "(" + value(output.value, output.type) + ");\n";
    }
    return finish();
  }

  // Whether the parts of one element are the lanes of one SIMD-group.
  bool parts_are_lanes(int64_t parts) const {
    return !second_ && parts == kSimd && space_.reduced[outputs_[0]].back();
  }

  // The kernel that reduces: `parts` threads for each element of the results, whose number is
  // `kept`. With one part, or where the parts are lanes, it gives the results themselves.
  std::string reduces(int64_t kept, int64_t count, int64_t parts) {
    const std::vector<bool>& reduced = space_.reduced[outputs_[0]];
    bool along_last = reduced.back(), lanes = parts_are_lanes(parts), whole = parts == 1 || lanes;
    std::vector<std::string> types;
    for (int output : outputs_)
      if (!whole) types.push_back(register_type(code_.outputs[output].type));
    begin(types);
    text_ += "uint i [[thread_position_in_grid]]) {\n";
    std::string all = parameter(static_cast<int>(kept)), each = parameter(static_cast<int>(count)),
                cut = parameter(static_cast<int>(parts));
    text_ += "  if (i >= uint(" + all + ") * uint(" + cut + ")) return;\n";
    // Neighbouring threads read neighbouring elements.
    text_ += along_last ? "  uint kept = i / uint(" + cut + "), part = i % uint(" + cut + ");\n"
                        : "  uint kept = i % uint(" + all + "), part = i / uint(" + all + ");\n";
    std::vector<int> outer, inner;
    for (size_t a = 0; a < reduced.size(); a++)
      (reduced[a] ? inner : outer).push_back(static_cast<int>(a));
    indices("kept", outer);
    for (size_t k = 0; k < outputs_.size(); k++) {
      const auto& output = code_.outputs[outputs_[k]];
      text_ += "  " + register_type(output.type) + " s" + std::to_string(k) + " = " +
               identity(output.reduce, output.type) + ";\n";
    }
    text_ += "  for (CAREFUL uint j = part; j < uint(" + each + "); j += uint(" + cut + ")) {\n";
    indices("j", inner);
    body();
    for (size_t k = 0; k < outputs_.size(); k++)
      text_ += "  " + joins(static_cast<int>(k),
                            [&](const auto& output) { return value(output.value, output.type); });
    text_ += "  }\n";
    for (size_t k = 0; k < outputs_.size() && lanes; k++) {
      std::string other = "simd_shuffle_xor(s" + std::to_string(k) + ", ushort(step))";
      text_ += "  for (uint step = 16u; step > 0u; step /= 2u)\n" +
               joins(static_cast<int>(k), [&](const auto&) { return other; });
    }
    if (lanes) text_ += "  if (part != 0u) return;\n";
    for (size_t k = 0; k < outputs_.size(); k++) {
      const auto& output = code_.outputs[outputs_[k]];
      std::string number = std::to_string(k);
      text_ += "  y" + number + "[" + (whole ? "kept" : "kept * uint(" + cut + ") + part") +
               "] = " +
               (whole ? element_type(output.storage, output.type) : register_type(output.type)) +
               "(s" + number + ");\n";
    }
    text_ += "}\n";
    return text_;
  }

  // After the text is written: what it calls p[0], p[1], ...
  const std::vector<int>& parameters() const { return parameters_; }

 private:
  std::string parameter(int number) {
    parameters_.push_back(number);
    return "p[" + std::to_string(parameters_.size() - 1) + "]";
  }

  // `types` are those of the outputs' arrays, if not their own storage.
  void begin(const std::vector<std::string>& types) {
    text_ = "kernel void chain(constant int* p [[buffer(0)]],\n";
    int slot = 1;
    for (int v : operands_) {
      text_ += "    device const CAREFUL " +
               element_type(code_.operands[v].storage, code_.values[v].type) + "* x" +
               std::to_string(v) + " [[buffer(" + std::to_string(slot++) + ")]],\n";
    }
    for (size_t k = 0; k < outputs_.size(); k++) {
      const auto& output = code_.outputs[outputs_[k]];
      text_ += "    device " +
               (types.empty() ? element_type(output.storage, output.type) : types[k]) + "* y" +
               std::to_string(k) + " [[buffer(" + std::to_string(slot++) + ")]],\n";
    }
    text_ += "    ";
  }

  // The line that joins one more value of output k to what there is of it.
  template <class More>
  std::string joins(int k, const More& more) const {
    const auto& output = code_.outputs[outputs_[k]];
    std::string sum = "s" + std::to_string(k);
    ChainOp op = output.reduce == Reduce::sum    ? ChainOp::add
                 : output.reduce == Reduce::max  ? ChainOp::max
                 : output.reduce == Reduce::prod ? ChainOp::mul
                                                 : ChainOp::min;
    return "    " + sum + " = " + expression(op, output.type, {sum, more(output)}) + ";\n";
  }

  std::string finish() { return text_ += "  }\n}\n"; }

  // The index along each of `axes`, from the row-major number of all of them.
  void indices(const std::string& number, const std::vector<int>& axes) {
    std::string rest = number;
    for (size_t k = axes.size(); k-- > 0;) {
      std::string axis = std::to_string(axes[k]);
      if (k == 0) {
        text_ += "    uint i" + axis + " = " + rest + ";\n";
        return;
      }
      std::string size = "uint(" + parameter(static_cast<int>(space_.shape[axes[k]])) + ")";
      std::string next = number + "_" + axis;
      text_ += "    uint i" + axis + " = " + rest + " % " + size + ", " + next + " = " + rest +
               " / " + size + ";\n";
      rest = next;
    }
  }

  // All registers that the outputs need.
  void body() {
    for (size_t v = 0; v < code_.values.size(); v++) {
      if (!used_[v]) continue;
      const ChainValue& value = code_.values[v];
      std::string right;
      if (value.kind == Kind::operand) {
        right = load(static_cast<int>(v));
      } else if (value.kind == Kind::constant) {
        right = literal(value.type, value.bits);
      } else if (value.kind == Kind::iota) {
        int axis = space_.axis_of[value.axis];
        right = axis < 0 ? "0" : "int(i" + std::to_string(axis) + ")";
      } else {
        std::vector<std::string> from;
        for (int i = 0; i < value.count; i++) {
          // A select is led by a truth value; everything else is of one type.
          bool leads = value.op == ChainOp::select && i == 0;
          from.push_back(this->value(value.from[i], leads ? ChainType::pred : value.on));
        }
        right = expression(value.op, value.on, from);
      }
      text_ +=
          "    " + register_type(value.type) + " r" + std::to_string(v) + " = " + right + ";\n";
    }
  }

  std::string value(int v, ChainType type) const {
    return as("r" + std::to_string(v), code_.values[v].type, type);
  }

  std::string load(int v) {
    std::string at = "uint(" + parameter(static_cast<int>(code_.operands[v].offset)) + ")";
    for (size_t a = 0; a < space_.shape.size(); a++) {
      int64_t stride = space_.strides[v][a];
      if (stride == 0) continue;
      at += " + i" + std::to_string(a);
      if (stride != 1) at += " * uint(" + parameter(static_cast<int>(stride)) + ")";
    }
    return register_type(code_.values[v].type) + "(x" + std::to_string(v) + "[" + at + "])";
  }

  static std::string identity(Reduce reduce, ChainType type) {
    if (reduce == Reduce::sum) return register_type(type) + "(0)";
    if (reduce == Reduce::prod) return register_type(type) + "(1)";
    bool largest = reduce == Reduce::max;
    if (type == ChainType::f32) return largest ? "-INFINITY" : "INFINITY";
    if (type == ChainType::s32) return largest ? "-2147483647 - 1" : "2147483647";
    return largest ? "0u" : "0xffffffffu";
  }

  const ChainCode& code_;
  const ChainSpace& space_;
  std::vector<int> outputs_;
  std::vector<bool> used_;
  const bool second_;  // no sums of SIMD-groups
  std::vector<int> operands_;
  std::vector<int> parameters_;
  std::string text_;
};

// Groups of outputs of one kind that a kernel can bind; nothing if one needs too many arrays.
std::optional<std::vector<Writer>> groups_of(const ChainCode& code, const ChainSpace& space,
                                             const std::vector<int>& outputs, bool second) {
  std::vector<Writer> groups;
  std::vector<int> group;
  for (int output : outputs) {
    group.push_back(output);
    if (Writer(code, space, group, second).arrays() > kMaxArrays) {
      group.pop_back();
      if (!group.empty()) groups.emplace_back(code, space, group, second);
      group.assign(1, output);
      if (Writer(code, space, group, second).arrays() > kMaxArrays) return std::nullopt;
    }
  }
  if (!group.empty()) groups.emplace_back(code, space, group, second);
  return groups;
}

Dispatch& add_kernel(Recipe& recipe, const std::string& text, const Writer& writer,
                     double operations) {
  Dispatch& dispatch = recipe.dispatch("", "chain");
  dispatch.text = std::string(source("chain")) + text;
  dispatch.computes(operations);
  const std::vector<int>& parameters = writer.parameters();
  dispatch.parameter_bytes.resize(parameters.size() * sizeof(int));
  std::memcpy(dispatch.parameter_bytes.data(), parameters.data(), dispatch.parameter_bytes.size());
  for (int v : writer.operands()) dispatch.reads(recipe.operand(v));
  return dispatch;
}

// Those of all elements; an elementary function is several.
double operations_of(const ChainCode& code, const ChainSpace& space) {
  constexpr double kEach = 4;
  return kEach * double(code.values.size()) * double(space.elements());
}

void add_reductions(Recipe& recipe, const ChainCode& code, const ChainSpace& space,
                    Writer& writer) {
  constexpr int64_t kMaxParts = 16 * 1024, kEach = 4;
  int first = writer.outputs()[0];
  int64_t kept = code.outputs[first].elements, count = space.elements() / kept;
  int64_t wanted =
      std::max(threads_for(space.elements()) / kept, space.reduced[first].back() ? kSimd : 1);
  int64_t parts = std::clamp<int64_t>(std::min(wanted, count / kEach), 1, kMaxParts);
  std::string text = writer.reduces(kept, count, parts);
  std::vector<std::pair<int, Span>> folds;
  Dispatch& dispatch = add_kernel(recipe, text, writer, operations_of(code, space));
  for (int output : writer.outputs()) {
    Span result = recipe.result(output);
    if (parts > 1 && !writer.parts_are_lanes(parts)) {
      folds.emplace_back(output, recipe.scratch(sizeof(uint32_t) * kept * parts));
      result = folds.back().second;
    }
    dispatch.writes(result);
  }
  size_t threads = group_threads();
  dispatch.over({(size_t(kept * parts) + threads - 1) / threads, 1, 1}, {threads, 1, 1});
  for (auto [output, partial] : folds) {
    const auto& o = code.outputs[output];
    std::string definitions = "typedef " + register_type(o.type) + " W;\ntypedef " +
                              element_type(o.storage, o.type) + " R;\n";
    recipe.dispatch("fold", "fold", definitions)
        .constants({static_cast<int>(o.reduce)})
        .parameters(FoldParameters{static_cast<int>(kept), static_cast<int>(parts)})
        .reads(partial)
        .writes(recipe.result(output))
        .over({size_t(kept), 1, 1},
              {size_t(std::clamp<int64_t>((parts + kSimd - 1) / kSimd * kSimd, kSimd, threads)), 1,
               1});
  }
}

template <bool second>
Offer chain(const Node& node) {
  ChainCode code = parse_chain(node);
  if (code.shape.size() > size_t(kChainRank)) return Offer::none("a chain takes up to 12 axes");
  ChainSpace space(code, 1024);
  if (space.elements() >= kMaxElements) return Offer::none("a chain takes up to 2^31 elements");
  std::vector<int> stored;
  std::vector<std::vector<int>> reduced;  // outputs of one set of reduced axes together
  for (size_t i = 0; i < code.outputs.size(); i++) {
    int output = static_cast<int>(i);
    if (code.outputs[i].stores) {
      stored.push_back(output);
      continue;
    }
    auto alike = std::ranges::find_if(
        reduced, [&](const auto& g) { return space.reduced[g[0]] == space.reduced[i]; });
    if (alike != reduced.end())
      alike->push_back(output);
    else
      reduced.push_back({output});
  }
  Recipe recipe(node, "generated kernel");
  // Reductions first: a stored result may take the place of an operand that they read.
  for (const auto& outputs : reduced) {
    auto groups = groups_of(code, space, outputs, second);
    if (!groups) return Offer::none("a kernel takes up to 30 arrays");
    for (Writer& writer : *groups) add_reductions(recipe, code, space, writer);
  }
  auto groups = groups_of(code, space, stored, second);
  if (!groups) return Offer::none("a kernel takes up to 30 arrays");
  // Where there are several, no result may be in place before the last has read its operands.
  std::vector<std::pair<Span, Span>> copies;
  for (Writer& writer : *groups) {
    std::string text = writer.stores();
    Dispatch& dispatch = add_kernel(recipe, text, writer, operations_of(code, space));
    for (int output : writer.outputs()) {
      Span result = recipe.result(output);
      if (groups->size() > 1) {
        copies.emplace_back(recipe.scratch(result.bytes), result);
        result = copies.back().first;
      }
      dispatch.writes(result);
    }
    dispatch.over_elements(space.elements());
  }
  for (auto [from, to] : copies) {
    bool words = from.bytes % sizeof(uint32_t) == 0;
    int64_t count = static_cast<int64_t>(words ? from.bytes / sizeof(uint32_t) : from.bytes);
    recipe.dispatch("copy", "copy", words ? "typedef int T;\n" : "typedef uchar T;\n")
        .parameters(static_cast<int>(count))
        .reads(from)
        .writes(to)
        .over_elements(count);
  }
  for (const Dispatch& dispatch : recipe.dispatches)
    if (dispatch.parameter_bytes.size() > kMaxParameterBytes)
      return Offer::none("the chain's strides are more than 4096 bytes");
  return second ? second_form(std::move(recipe)) : recipe;
}

const Register kChain("chain", {chain<false>, chain<true>});

}  // namespace
}  // namespace jax_mps::metal
