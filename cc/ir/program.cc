// The types and attributes of a program.
#include "program.h"

#include <algorithm>

namespace jax_mps {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  size_t size;
};
constexpr DTypeRow kDTypes[] = {{DType::f32, "f32", 4},  {DType::bf16, "bf16", 2},
                                {DType::f16, "f16", 2},  {DType::s32, "s32", 4},
                                {DType::u32, "u32", 4},  {DType::u8, "u8", 1},
                                {DType::pred, "pred", 1}};

}  // namespace

size_t size_of(DType dtype) { return std::ranges::find(kDTypes, dtype, &DTypeRow::dtype)->size; }
std::string_view name_of(DType dtype) {
  return std::ranges::find(kDTypes, dtype, &DTypeRow::dtype)->name;
}

std::optional<DType> dtype_of(std::string_view name) {
  auto row = std::ranges::find(kDTypes, name, &DTypeRow::name);
  return row == std::end(kDTypes) ? std::nullopt : std::optional(row->dtype);
}

int64_t TensorType::elements() const {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

int64_t TensorType::span() const {
  int64_t count = elements();
  return row && count ? (count / dim(-1) - 1) * row + dim(-1) : count;
}

int64_t TensorType::dim(int axis) const {
  int index = axis < 0 ? axis + rank() : axis;
  if (index < 0 || index >= rank())
    throw ProgramError("a value of type " + text() + " has too few axes");
  return shape[index];
}

std::string TensorType::text() const {
  std::string text(name_of(dtype));
  text += '[';
  for (size_t i = 0; i < shape.size(); i++) text += (i ? "," : "") + std::to_string(shape[i]);
  if (row) text.append(1, '|').append(std::to_string(row));
  return text + ']';
}

template <class T>
const T& Attributes::get(const std::string& name, const char* kind) const {
  auto found = values_.find(name);
  if (found == values_.end()) throw ProgramError("attribute '" + name + "' is missing");
  const T* value = std::get_if<T>(&found->second);
  if (!value) throw ProgramError("attribute '" + name + "' must be " + kind);
  return *value;
}

bool Attributes::boolean(const std::string& name) const { return get<bool>(name, "true or false"); }
int64_t Attributes::integer(const std::string& name) const {
  return get<int64_t>(name, "an integer");
}
const std::string& Attributes::string(const std::string& name) const {
  return get<std::string>(name, "a string");
}
const List& Attributes::list(const std::string& name) const { return get<List>(name, "a list"); }

double Attributes::number(const std::string& name) const {
  auto found = values_.find(name);
  if (found != values_.end())
    if (const int64_t* value = std::get_if<int64_t>(&found->second))
      return static_cast<double>(*value);
  return get<double>(name, "a number");
}

std::vector<int64_t> Attributes::integers(const std::string& name) const {
  std::vector<int64_t> flat;  // [[a,b],[c,d]] reads as a, b, c, d
  auto visit = [&](auto& self, const List& items) -> void {
    for (const Attribute& item : items) {
      if (const int64_t* value = std::get_if<int64_t>(&item))
        flat.push_back(*value);
      else if (const List* inner = std::get_if<List>(&item))
        self(self, *inner);
      else
        throw ProgramError("attribute '" + name + "' must be a list of integers");
    }
  };
  visit(visit, list(name));
  return flat;
}

std::string Attributes::text() const {
  auto print = [](auto& self, const Attribute& value) -> std::string {
    if (const bool* b = std::get_if<bool>(&value)) return *b ? "true" : "false";
    if (const int64_t* i = std::get_if<int64_t>(&value)) return std::to_string(*i);
    if (const double* d = std::get_if<double>(&value)) return std::to_string(*d);
    if (const std::string* s = std::get_if<std::string>(&value)) return '"' + *s + '"';
    std::string text = "[";
    for (const Attribute& item : std::get<List>(value)) text += self(self, item) + ",";
    return text + "]";
  };
  std::string text;
  for (const auto& [name, value] : values_) text += name + "=" + print(print, value) + " ";
  return text;
}

}  // namespace jax_mps
