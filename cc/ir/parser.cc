// The parser of the text form.
#include <algorithm>
#include <charconv>
#include <limits>
#include <unordered_map>

#include "program.h"

namespace jax_mps {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 48;  // far above memory, far below overflow
constexpr int64_t kMaxArena = int64_t{1} << 38;     // bytes
constexpr size_t kMaxDepth = 16;                    // of nested attribute lists, and of loops

// Reads one line from left to right; every failure names what was expected and what stands there.
class Cursor {
 public:
  explicit Cursor(std::string_view line) : rest_(line) { skip_spaces(); }

  bool done() const { return rest_.empty(); }

  bool accept(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    skip_spaces();
    return true;
  }

  void expect(std::string_view token) {
    if (!accept(token)) fail("expected '" + std::string(token) + "'");
  }

  std::string word() {
    size_t n = 0;
    while (n < rest_.size() &&
           (std::isalnum(static_cast<unsigned char>(rest_[n])) || rest_[n] == '_'))
      n++;
    if (n == 0) fail("expected a name");
    std::string word(rest_.substr(0, n));
    rest_.remove_prefix(n);
    skip_spaces();
    return word;
  }

  int64_t integer() {
    int64_t value = 0;
    auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) fail("expected an integer");
    advance_to(end);
    return value;
  }

  int value_name() {
    expect("%");
    int64_t name = integer();
    if (name < 0 || name > std::numeric_limits<int>::max()) fail("value number out of range");
    return static_cast<int>(name);
  }

  TensorType type() {
    std::string name = word();
    std::optional<DType> dtype = dtype_of(name);
    if (!dtype) fail("unknown dtype '" + name + "'");
    TensorType type{*dtype, {}};
    expect("[");
    int64_t elements = 1;  // as if no axis were empty: strides must fit, too
    while (!accept("]")) {
      if (type.shape.size() > 1 && accept("|")) {
        type.row = integer();
        if (type.row < type.shape.back() || type.row < 1 || type.row > kMaxElements / elements)
          fail("rows " + std::to_string(type.row) + " apart are out of range");
        expect("]");
        break;
      }
      if (!type.shape.empty()) expect(",");
      int64_t dim = integer();
      if (dim < 0 || dim > kMaxElements / elements)
        fail("dimension " + std::to_string(dim) + " out of range");
      elements *= std::max<int64_t>(dim, 1);
      type.shape.push_back(dim);
    }
    return type;
  }

  Attribute attribute(size_t depth = 0) {
    if (depth > kMaxDepth) fail("attribute lists nested too deeply");
    if (accept("true")) return Attribute(true);
    if (accept("false")) return Attribute(false);
    if (accept("\"")) {
      size_t end = rest_.find('"');
      if (end == std::string_view::npos) fail("string without end");
      std::string text(rest_.substr(0, end));
      rest_.remove_prefix(end + 1);
      skip_spaces();
      return Attribute(std::move(text));
    }
    if (accept("[")) {
      List items;
      while (!accept("]")) {
        if (!items.empty()) expect(",");
        items.push_back(attribute(depth + 1));
      }
      return Attribute(std::move(items));
    }
    return number();
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw ProgramError(what + (rest_.empty() ? " at the end of the line"
                                             : " at '" + std::string(rest_.substr(0, 24)) + "'"));
  }

 private:
  Attribute number() {
    const char* begin = rest_.data();
    const char* end = begin + rest_.size();
    int64_t integer = 0;
    double real = 0;
    auto as_integer = std::from_chars(begin, end, integer);
    auto as_real = std::from_chars(begin, end, real);
    if (as_real.ec != std::errc()) fail("expected an attribute value");
    advance_to(as_real.ptr);
    if (as_integer.ec == std::errc() && as_integer.ptr == as_real.ptr) return Attribute(integer);
    return Attribute(real);
  }

  void advance_to(const char* end) {
    rest_.remove_prefix(end - rest_.data());
    skip_spaces();
  }
  void skip_spaces() {
    while (!rest_.empty() && rest_.front() == ' ') rest_.remove_prefix(1);
  }

  std::string_view rest_;
};

class Parser {
 public:
  // Whether a body follows: the lines up to its `end`.
  bool line(std::string_view text, int number) {
    Cursor cursor(text);
    bool body = false;
    if (cursor.done()) return body;
    if (returned_) cursor.fail("statement after 'return'");
    if (cursor.accept("device ")) {
      if (!program_.values.empty()) cursor.fail("'device' must be the first statement");
      program_.device = cursor.word();
    } else if (cursor.accept("input ")) {
      do program_.inputs.push_back(define(cursor, /*may_have_offset=*/false));
      while (cursor.accept(","));
    } else if (cursor.accept("return ")) {
      do program_.outputs.push_back(use(cursor));
      while (cursor.accept(","));
      returned_ = true;
    } else {
      body = step(cursor, number);
    }
    if (!cursor.done()) cursor.fail("unexpected text");
    return body;
  }

  void set_body(Program body) {
    program_.steps.back().node.body = std::make_shared<const Program>(std::move(body));
  }

  Program finish() {
    if (!returned_) throw ProgramError("the program has no 'return' line");
    std::vector<bool> bound(program_.values.size());
    for (const auto* values : {&program_.inputs, &program_.outputs})
      for (int value : *values) {
        bound[value] = true;
        if (program_.values[value].type.row)
          throw ProgramError("an input or output of type " + program_.values[value].type.text() +
                             " has rows apart");
      }
    for (int value : program_.outputs) program_.values[value].offset = -1;
    for (const Step& step : program_.steps)
      if (step.is_alias()) bound[step.results[0]] = true;
    for (size_t i = 0; i < program_.values.size(); i++) {
      const Value& value = program_.values[i];
      if (bound[i]) continue;
      if (value.offset < 0 && value.type.elements() > 0)
        throw ProgramError("an intermediate of type " + value.type.text() + " has no offset");
      if (value.offset > kMaxArena || static_cast<int64_t>(value.type.bytes()) > kMaxArena)
        throw ProgramError("an intermediate of type " + value.type.text() + " at offset " +
                           std::to_string(value.offset) + " is out of range");
      program_.arena_bytes =
          std::max<size_t>(program_.arena_bytes, std::max<int64_t>(value.offset, 0) +
                                                     value.type.span() * size_of(value.type.dtype));
    }
    return std::move(program_);
  }

 private:
  int define(Cursor& cursor, bool may_have_offset) {
    int name = cursor.value_name();
    cursor.expect(":");
    Value value{cursor.type()};
    if (may_have_offset && cursor.accept("@")) {
      value.offset = cursor.integer();
      if (value.offset < 0 || value.offset % 64 != 0)
        cursor.fail("offset " + std::to_string(value.offset) + " is not a multiple of 64");
      if (value.offset > kMaxArena)
        cursor.fail("offset " + std::to_string(value.offset) + " is out of range");
    }
    int index = static_cast<int>(program_.values.size());
    if (!index_of_.emplace(name, index).second)
      cursor.fail("%" + std::to_string(name) + " is defined twice");
    program_.values.push_back(std::move(value));
    return index;
  }

  int use(Cursor& cursor) {
    int name = cursor.value_name();
    auto found = index_of_.find(name);
    if (found == index_of_.end()) cursor.fail("%" + std::to_string(name) + " is not defined");
    return found->second;
  }

  bool step(Cursor& cursor, int line) {
    Step step;
    step.line = line;
    std::vector<int> results;
    // The results' names are bound after the operands are read: a node cannot read itself.
    size_t first = program_.values.size();
    do results.push_back(define(cursor, /*may_have_offset=*/true));
    while (cursor.accept(","));
    cursor.expect("=");
    step.node.op = cursor.word();
    cursor.expect("(");
    while (!cursor.accept(")")) {
      if (!step.operands.empty()) cursor.expect(",");
      int operand = use(cursor);
      if (operand >= static_cast<int>(first)) cursor.fail("a node reads its own result");
      step.operands.push_back(operand);
    }
    if (cursor.accept("{")) {
      bool first_attribute = true;
      while (!cursor.accept("}")) {
        if (!first_attribute) cursor.expect(",");
        first_attribute = false;
        std::string name = cursor.word();
        cursor.expect("=");
        step.node.attributes.set(std::move(name), cursor.attribute());
      }
    }
    step.results = std::move(results);
    for (int value : step.operands) step.node.in.push_back(program_.values[value].type);
    for (int value : step.results) step.node.out.push_back(program_.values[value].type);
    bool is_loop = step.node.op == "loop";
    if (is_loop) cursor.expect("do");
    program_.steps.push_back(std::move(step));
    return is_loop;
  }

  Program program_;
  std::unordered_map<int, int> index_of_;
  bool returned_ = false;
};

bool is_end(std::string_view line) {
  Cursor cursor(line);
  return cursor.accept("end") && cursor.done();
}

}  // namespace

Program parse_program(std::string_view text) {
  std::vector<Parser> parsers(1);  // of the program, of the loop that the line is in, ...
  int number = 0;
  while (!text.empty()) {
    number++;
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    try {
      if (is_end(line)) {
        if (parsers.size() == 1) throw ProgramError("'end' outside of a loop");
        Program body = parsers.back().finish();
        parsers.pop_back();
        parsers.back().set_body(std::move(body));
      } else if (parsers.back().line(line, number)) {
        if (parsers.size() > kMaxDepth) throw ProgramError("loops nested too deeply");
        parsers.emplace_back();
      }
    } catch (const ProgramError& error) {
      throw ProgramError("line " + std::to_string(number) + ": " + error.what());
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (parsers.size() > 1) throw ProgramError("a loop has no 'end' line");
  return parsers.back().finish();
}

}  // namespace jax_mps
