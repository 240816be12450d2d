// Reads the attributes of a chain: parses and types its code, and checks that no operand is read
// out of its bounds.
#include "code.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <limits>

#include "ir/require.h"

namespace jax_mps {
namespace {

using Kind = ChainValue::Kind;

// What the operands of an instruction may be, and what its result is.
enum class Rule : uint8_t {
  number,    // f32, s32, u32 -> the same
  real,      // f32 -> f32
  has_sign,  // f32, s32 -> the same
  compare,   // all types -> pred
  logic,     // s32, u32, pred -> the same
  integer,   // s32, u32 -> the same
  finite,    // f32 -> pred
  select,    // pred, two of a type -> the type
  to_f32,
  to_s32,
  to_u32,
  to_pred,
};

struct Row {
  std::string_view name;
  ChainOp op;
  int operands;
  Rule rule;
};
constexpr Row kInstructions[] = {
#define JAX_MPS_INSTRUCTION(name, text, operands, rule, ...) \
  {text, ChainOp::name, operands, Rule::rule},
#include "instructions.def"
#undef JAX_MPS_INSTRUCTION
};

constexpr std::string_view kTypeNames[] = {"f32", "s32", "u32", "pred"};
std::string name_of(ChainType type) { return std::string(kTypeNames[static_cast<int>(type)]); }

std::pair<ChainType, Storage> register_type(const TensorType& type) {
  switch (type.dtype) {
    case DType::f32:
      return {ChainType::f32, Storage::word};
    case DType::bf16:
      return {ChainType::f32, Storage::bf16};
    case DType::f16:
      return {ChainType::f32, Storage::f16};
    case DType::s32:
      return {ChainType::s32, Storage::word};
    case DType::u32:
      return {ChainType::u32, Storage::word};
    case DType::u8:
      return {ChainType::u32, Storage::byte};
    case DType::pred:
      return {ChainType::pred, Storage::truth};
  }
  throw ProgramError("a chain has no registers of the type of " + type.text());
}

template <class T>
const T& as(const Attribute& attribute, const std::string& what) {
  const T* value = std::get_if<T>(&attribute);
  require(value, what);
  return *value;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (true) {
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    if (line.empty()) return words;
    size_t end = std::min(line.find(' '), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
}

template <class T>
T literal(std::string_view word) {
  T value{};
  std::string text(word);
  auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  require(error == std::errc() && end == word.data() + word.size(),
          "'" + text + "' is not a literal of this instruction");
  return value;
}

// Reads lines of code into values; `names` are the registers that the text can name.
class Reader {
 public:
  explicit Reader(ChainCode& code) : code_(code) {
    for (size_t i = 0; i < code.values.size(); i++)
      registers_.push_back({static_cast<int>(i), code.values[i].type});
  }

  struct Register {
    int value;
    ChainType type;
  };

  Register named(int64_t number) const {
    require(number >= 0 && number < static_cast<int64_t>(registers_.size()),
            "register " + std::to_string(number) + " is not defined");
    return registers_[number];
  }

  void line(const std::string& text) {
    auto words = words_of(text);
    require(!words.empty(), "a line is empty");
    std::string name(words[0]);
    words.erase(words.begin());
    registers_.push_back(read(name, words));
  }

 private:
  using Words = std::vector<std::string_view>;

  static void require_words(const std::string& name, const Words& words, size_t count) {
    require(words.size() == count, "'" + name + "' takes " + std::to_string(count) +
                                       " operands, but has " + std::to_string(words.size()));
  }

  Register define(ChainValue value) {
    code_.values.push_back(value);
    return {static_cast<int>(code_.values.size()) - 1, value.type};
  }
  Register constant(ChainType type, uint32_t bits) {
    return define({.kind = Kind::constant, .type = type, .bits = bits});
  }
  Register instruction(ChainOp op, ChainType on, ChainType type,
                       const std::vector<Register>& from) {
    ChainValue value{.kind = Kind::instruction, .type = type, .op = op, .on = on};
    for (const Register& r : from) value.from[value.count++] = r.value;
    return define(value);
  }

  Register read(const std::string& name, const Words& words) {
    auto row = std::ranges::find(kInstructions, name, &Row::name);
    if (row == std::end(kInstructions)) return special(name, words);
    require_words(name, words, row->operands);
    std::vector<Register> from;
    for (std::string_view word : words) from.push_back(named(literal<int64_t>(word)));
    return instruction(row->op, from.back().type, result_type(*row, from), from);
  }

  Register special(const std::string& name, const Words& words) {
    if (name == "integer_pow") {
      require_words(name, words, 2);
      return integer_pow(named(literal<int64_t>(words[0])), literal<int64_t>(words[1]));
    }
    bool known = name.starts_with("const") || name.starts_with("bitcast_") || name == "iota";
    require(known, "unknown instruction '" + name + "'");
    require_words(name, words, 1);
    if (name == "const")
      return constant(ChainType::f32,
                      std::bit_cast<uint32_t>(static_cast<float>(literal<double>(words[0]))));
    if (name == "const_s32")
      return constant(ChainType::s32, static_cast<uint32_t>(literal<int32_t>(words[0])));
    if (name == "const_u32") return constant(ChainType::u32, literal<uint32_t>(words[0]));
    if (name == "const_pred") return constant(ChainType::pred, literal<uint32_t>(words[0]) != 0);
    if (name == "iota") {
      int64_t axis = literal<int64_t>(words[0]);
      require(axis >= 0 && axis < static_cast<int64_t>(code_.shape.size()),
              "iota: there is no axis " + std::to_string(axis));
      return define({.kind = Kind::iota, .type = ChainType::s32, .axis = static_cast<int>(axis)});
    }
    size_t type_at = name.starts_with("bitcast_") ? 8 : 0;
    auto type = std::ranges::find(kTypeNames, name.substr(type_at));
    require(type < std::end(kTypeNames) - 1, "unknown instruction '" + name + "'");
    Register from = named(literal<int64_t>(words[0]));
    require(from.type != ChainType::pred, name + " takes f32, s32 or u32, but got pred");
    return {from.value, static_cast<ChainType>(type - kTypeNames)};
  }

  // In the order of products of lax.integer_pow.
  Register integer_pow(Register x, int64_t n) {
    require(x.type == ChainType::f32 || (x.type != ChainType::pred && n >= 0),
            "integer_pow takes f32, or s32 and u32 with an exponent of at least 0, but got " +
                name_of(x.type) + " and " + std::to_string(n));
    bool real = x.type == ChainType::f32;
    uint32_t one = real ? std::bit_cast<uint32_t>(1.0f) : 1;
    if (n == 0) return constant(x.type, one);
    bool reciprocal = n < 0;
    Register result = x;
    bool first = true;
    uint64_t left = reciprocal ? -static_cast<uint64_t>(n) : n;
    Register power = x;
    for (; left > 0; left /= 2) {
      if (left & 1) {
        result = first ? power : instruction(ChainOp::mul, x.type, x.type, {result, power});
        first = false;
      }
      if (left > 1) power = instruction(ChainOp::mul, x.type, x.type, {power, power});
    }
    if (!reciprocal) return result;
    Register unit = constant(x.type, one);
    return instruction(ChainOp::div, x.type, x.type, {unit, result});
  }

  static ChainType result_type(const Row& row, const std::vector<Register>& from) {
    ChainType type = from.back().type;
    auto takes = [&](bool allowed, const char* what) {
      require(allowed, std::string(row.name) + " takes " + what + ", but got " + name_of(type));
    };
    size_t first = row.rule == Rule::select ? 1 : 0;
    for (size_t i = first; i < from.size(); i++)
      require(from[i].type == type, std::string(row.name) +
                                        " takes operands of one type, but got " +
                                        name_of(from[i].type) + " and " + name_of(type));
    bool real = type == ChainType::f32, boolean = type == ChainType::pred;
    switch (row.rule) {
      case Rule::number:
        takes(!boolean, "f32, s32 or u32");
        return type;
      case Rule::real:
        takes(real, "f32");
        return type;
      case Rule::has_sign:
        takes(real || type == ChainType::s32, "f32 or s32");
        return type;
      case Rule::compare:
        return ChainType::pred;
      case Rule::logic:
        takes(!real, "s32, u32 or pred");
        return type;
      case Rule::integer:
        takes(!real && !boolean, "s32 or u32");
        return type;
      case Rule::finite:
        takes(real, "f32");
        return ChainType::pred;
      case Rule::select:
        require(from[0].type == ChainType::pred,
                "select takes a pred first, but got " + name_of(from[0].type));
        return type;
      case Rule::to_f32:
        return ChainType::f32;
      case Rule::to_s32:
        return ChainType::s32;
      case Rule::to_u32:
        return ChainType::u32;
      case Rule::to_pred:
        return ChainType::pred;
    }
    return type;
  }

  ChainCode& code_;
  std::vector<Register> registers_;
};

void read_operands(const Node& node, ChainCode& code) {
  const List& strides = node.attributes.list("strides");
  const List& offsets = node.attributes.list("offsets");
  require(strides.size() == node.in.size() && offsets.size() == node.in.size(),
          "'strides' and 'offsets' must have one entry for each of the " +
              std::to_string(node.in.size()) + " operands");
  constexpr int64_t kLimit = std::numeric_limits<int64_t>::max() / 4;
  for (size_t i = 0; i < node.in.size(); i++) {
    auto [type, storage] = register_type(node.in[i]);
    ChainOperand operand{storage, {}, as<int64_t>(offsets[i], "an offset must be an integer")};
    const List& row = as<List>(strides[i], "'strides' must be a list of lists");
    require(row.size() == code.shape.size(), "strides of operand " + std::to_string(i) +
                                                 " must have one entry for each axis of 'shape'");
    int64_t last = operand.offset;
    bool inside = operand.offset >= 0 && operand.offset < node.in[i].span();
    for (size_t axis = 0; axis < row.size() && inside; axis++) {
      int64_t stride = as<int64_t>(row[axis], "a stride must be an integer");
      require(stride >= 0, "a stride must be at least 0, but got " + std::to_string(stride));
      operand.strides.push_back(code.shape[axis] == 1 ? 0 : stride);
      inside = stride <= kLimit / code.shape[axis];
      if (inside) last += (code.shape[axis] - 1) * stride;
      inside = inside && last < node.in[i].span();
    }
    require(inside && last < node.in[i].span(),
            "operand " + std::to_string(i) + " of type " + node.in[i].text() +
                " is read outside its " + std::to_string(node.in[i].span()) + " elements");
    code.operands.push_back(std::move(operand));
    code.values.push_back({.kind = Kind::operand, .type = type});
  }
}

void read_output(const Attribute& attribute, const TensorType& type, const Reader& reader,
                 ChainCode& code) {
  const std::string form = "an output must be [\"store\", register] or [\"sum\", register, [axes]]";
  const List& entry = as<List>(attribute, form);
  require(entry.size() >= 2, form);
  const std::string& kind = as<std::string>(entry[0], form);
  auto source = reader.named(as<int64_t>(entry[1], form));
  constexpr std::string_view kReduce[] = {"sum", "max", "min", "prod"};
  auto reduce = std::ranges::find(kReduce, kind);
  bool stores = kind == "store";
  require(stores || reduce != std::end(kReduce), "unknown output '" + kind + "'");
  require(entry.size() == (stores ? 2 : 3), form);
  auto [result_type, storage] = register_type(type);
  require(result_type == source.type, "a register of type " + name_of(source.type) +
                                          " cannot become a result of type " + type.text());
  ChainOutput output{.stores = stores,
                     .reduce = stores ? Reduce::sum : static_cast<Reduce>(reduce - kReduce),
                     .value = source.value,
                     .type = source.type,
                     .storage = storage,
                     .reduced = std::vector<bool>(code.shape.size()),
                     .elements = type.elements(),
                     .cols = type.row ? type.dim(-1) : 0,
                     .row = type.row};
  require(stores || !type.row, "a reduction gives no rows apart");
  std::vector<int64_t> shape;
  if (!stores) {
    require((kind != "sum" && kind != "prod") || source.type != ChainType::pred,
            kind + " takes f32, s32 or u32, but got pred");
    for (const Attribute& item : as<List>(entry[2], form)) {
      int64_t axis = as<int64_t>(item, form);
      require(axis >= 0 && axis < static_cast<int64_t>(code.shape.size()) && !output.reduced[axis],
              "axis " + std::to_string(axis) + " of a reduction is out of range or given twice");
      output.reduced[axis] = true;
    }
  }
  for (size_t axis = 0; axis < code.shape.size(); axis++)
    if (!output.reduced[axis]) shape.push_back(code.shape[axis]);
  require_shape(type, shape);
  code.outputs.push_back(std::move(output));
}

}  // namespace

ChainCode parse_chain(const Node& node) {
  ChainCode code;
  int64_t elements = 1;
  for (const Attribute& item : node.attributes.list("shape")) {
    int64_t dim = as<int64_t>(item, "'shape' must be a list of integers");
    require(dim > 0 && dim < (int64_t{1} << 40) / elements,
            "'shape' must be positive and fit memory");
    elements *= dim;
    code.shape.push_back(dim);
  }
  read_operands(node, code);
  Reader reader(code);
  int number = 0;
  for (const Attribute& line : node.attributes.list("code")) {
    const std::string& text = as<std::string>(line, "'code' must be a list of strings");
    try {
      reader.line(text);
    } catch (const ProgramError& error) {
      throw ProgramError("code " + std::to_string(number) + " '" + text + "': " + error.what());
    }
    number++;
  }
  const List& outputs = node.attributes.list("outputs");
  require(outputs.size() == node.out.size(), "'outputs' must have one entry for each of the " +
                                                 std::to_string(node.out.size()) + " results");
  for (size_t i = 0; i < outputs.size(); i++) read_output(outputs[i], node.out[i], reader, code);
  return code;
}

}  // namespace jax_mps
