// The Foundation classes that Metal's messages carry.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "objc.h"

namespace sim {

struct String : Object {
  static constexpr const char* kName = "NSString";
  std::string value;
  explicit String(std::string value = "") : value(std::move(value)) {}
  const char* utf8() { return value.c_str(); }
  unsigned long length() { return value.size(); }
  std::string text() override { return value; }
  bool is_equal(Object* other) override;
  unsigned long hash() override { return std::hash<std::string>()(value); }
};
inline std::string string_of(Object* s) { return s ? static_cast<String*>(s)->value : ""; }
inline String* new_string(std::string value) {
  return autoreleased(make<String>(std::move(value)));
}

struct Number : Object {
  static constexpr const char* kName = "NSNumber";
  double value = 0;
  long whole = 0;
  bool is_equal(Object* other) override;
  unsigned long hash() override { return static_cast<unsigned long>(whole); }
  std::string text() override { return std::to_string(value); }
};

struct Array : Object {
  static constexpr const char* kName = "NSArray";
  std::vector<Ref<Object>> items;
  unsigned long count() { return items.size(); }
  Object* at(unsigned long i);
  void add(Object* item) { items.emplace_back(item); }
};

struct Dictionary : Object {
  static constexpr const char* kName = "NSDictionary";
  std::vector<std::pair<Ref<Object>, Ref<Object>>> items;
  unsigned long count() { return items.size(); }
  Object* at(Object* key);
  void set(Object* value, Object* key);
  Array* keys();
  Array* values();
};

struct Error : Object {
  static constexpr const char* kName = "NSError";
  std::string domain, message;
  long code = 0;
  std::string text() override { return message; }
};
// Sets *error, when the caller wants one, to an autoreleased error.
Error* new_error(const char* domain, long code, std::string message);

struct Url : Object {
  static constexpr const char* kName = "NSURL";
  std::string path;
};

struct Data : Object {
  static constexpr const char* kName = "NSData";
  std::string bytes;
  const void* pointer() { return bytes.data(); }
  unsigned long length() { return bytes.size(); }
};

std::vector<long> shape_of(Object* array);

}  // namespace sim
