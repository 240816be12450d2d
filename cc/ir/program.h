// The program: typed values and the nodes that compute them, as parsed from its text form.
//
//   input %0: f32[64,28,28,1], %1: f32[5,5,1,32]
//   %2: f32[64,28,28,32] @0 = conv(%0, %1) {strides=[1,1], groups=1, neuron="relu"}
//   return %2
//
// One statement a line. `@0` is the byte offset of an intermediate in the program's arena. A loop's
// body is a program of its own between `do`, at the end of the loop's line, and a line `end`. An
// intermediate `f32[8,16|48]` has its rows, of the last axis, 48 elements apart: it lies in
// another. A first line `device metal` asks for that device, else the program runs on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace jax_mps {

// A text or a node that breaks a rule; the words reach the user as INVALID_ARGUMENT.
struct ProgramError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class DType : uint8_t { f32, bf16, f16, s32, u32, u8, pred };

size_t size_of(DType dtype);
std::string_view name_of(DType dtype);
std::optional<DType> dtype_of(std::string_view name);
inline bool is_half(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

struct TensorType {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  int64_t row = 0;  // from one row of the last axis to the next, where rows are pitched

  int64_t elements() const;
  int64_t pitch() const { return row ? row : dim(-1); }
  int64_t span() const;  // elements from the first to the last in memory
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
  int64_t dim(int axis) const;  // from the end if negative; ProgramError if there is no such axis
  int rank() const { return static_cast<int>(shape.size()); }
  std::string text() const;  // "f32[2,3]", "f32[2,3|8]"
};

struct Attribute;
using List = std::vector<Attribute>;
struct Attribute : std::variant<bool, int64_t, double, std::string, List> {
  using variant::variant;
};

// The attributes of one node; a missing name or a wrong kind is a ProgramError that says so.
class Attributes {
 public:
  void set(std::string name, Attribute value) { values_[std::move(name)] = std::move(value); }
  bool has(const std::string& name) const { return values_.contains(name); }
  bool boolean(const std::string& name) const;
  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  const std::string& string(const std::string& name) const;
  const List& list(const std::string& name) const;
  std::vector<int64_t> integers(const std::string& name) const;
  std::string text() const;  // all of them, by name: equal texts mean equal attributes

 private:
  template <class T>
  const T& get(const std::string& name, const char* kind) const;
  std::map<std::string, Attribute> values_;
};

// Types of operands or of results; reading one that the text does not have is a ProgramError.
class Types : public std::vector<TensorType> {
 public:
  const TensorType& operator[](size_t i) const {
    if (i >= size()) throw ProgramError("operand or result " + std::to_string(i) + " is missing");
    return vector::operator[](i);
  }
};

struct Program;

// One node with the types of its operands and results: all that a kernel needs to know.
struct Node {
  std::string op;
  Types in, out;
  Attributes attributes;
  std::shared_ptr<const Program> body;  // of a loop
};

struct Step {
  // A reshape is another name of its operand's memory, a part of some of it, from element `start`
  // on.
  bool is_alias() const { return node.op == "reshape" || node.op == "part"; }
  size_t alias_offset() const {  // in bytes
    if (node.op == "reshape") return 0;
    return static_cast<size_t>(node.attributes.integer("start")) * size_of(node.in[0].dtype);
  }

  Node node;
  std::vector<int> operands, results;  // indices into Program::values
  int line = 0;                        // of the text
};

struct Value {
  TensorType type;
  int64_t offset = -1;  // in the arena; -1 for inputs and outputs
};

struct Program {
  std::string device = "cpu";
  std::vector<Value> values;
  std::vector<int> inputs, outputs;
  std::vector<Step> steps;
  size_t arena_bytes = 0;
};

// Throws ProgramError with the number of the line.
Program parse_program(std::string_view text);

}  // namespace jax_mps
