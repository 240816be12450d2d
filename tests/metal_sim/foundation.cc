// NSString, NSNumber, NSArray, NSDictionary, NSError, NSURL, NSData, NSDate, NSProcessInfo,
// NSBundle.
#include "foundation.h"

#include <unistd.h>

#include <cstring>

#include "rule.h"

namespace sim {

bool String::is_equal(Object* other) {
  auto* s = dynamic_cast<String*>(other);
  return s && s->value == value;
}
bool Number::is_equal(Object* other) {
  auto* n = dynamic_cast<Number*>(other);
  return n && n->value == value;
}
Object* Array::at(unsigned long i) {
  if (i >= items.size())
    die("NSRangeException", "-[NSArray objectAtIndex:]: index %lu of %zu", i, items.size());
  return items[i].get();
}
Object* Dictionary::at(Object* key) {
  for (auto& [k, v] : items)
    if (k->is_equal(key)) return v.get();
  return nullptr;
}
void Dictionary::set(Object* value, Object* key) {
  for (auto& [k, v] : items)
    if (k->is_equal(key)) {
      v = Ref<Object>(value);
      return;
    }
  items.emplace_back(Ref<Object>(key), Ref<Object>(value));
}
Array* Dictionary::keys() {
  auto* array = make<Array>();
  for (auto& item : items) array->add(item.first.get());
  return autoreleased(array);
}
Array* Dictionary::values() {
  auto* array = make<Array>();
  for (auto& item : items) array->add(item.second.get());
  return autoreleased(array);
}
Error* new_error(const char* domain, long code, std::string message) {
  auto* error = make<Error>();
  error->domain = domain;
  error->code = code;
  error->message = std::move(message);
  return autoreleased(error);
}
std::vector<long> shape_of(Object* array) {
  std::vector<long> shape;
  if (array)
    for (auto& item : static_cast<Array*>(array)->items)
      shape.push_back(static_cast<Number*>(item.get())->whole);
  return shape;
}

namespace {

String* describe(Object* object) { return new_string(object->text()); }
struct Described : Object {
  String* description() { return describe(this); }
};
const auto described = Define<Described>()
                           .on<&Described::description>("description")
                           .on<&Described::description>("debugDescription");

String* string_with_c(const char* text, unsigned long) { return new_string(text); }
String* string_with_utf8(const char* text) { return new_string(text); }
String* string_with_string(String* s) { return new_string(s->value); }
String* empty_string() { return new_string(""); }
struct StringMessages : String {
  String* init_c(const char* text, unsigned long) {
    value = text;
    return this;
  }
  String* init_utf8(const char* text) { return init_c(text, 4); }
  String* init_bytes(const void* bytes, unsigned long n, unsigned long, bool) {
    value.assign(static_cast<const char*>(bytes), n);
    return this;
  }
  String* init_string(String* other) {
    value = other->value;
    return this;
  }
  bool equal(String* other) { return is_equal(other); }
  const char* c_string(unsigned long) { return utf8(); }
  unsigned long bytes(unsigned long) { return value.size(); }
  unsigned short character(unsigned long i) { return static_cast<unsigned char>(value.at(i)); }
  String* appending(String* other) { return new_string(value + other->value); }
};
const auto string_class = Define<String>()
                              .creatable()
                              .on_class<&string_with_c>("stringWithCString:encoding:")
                              .on_class<&string_with_utf8>("stringWithUTF8String:")
                              .on_class<&string_with_string>("stringWithString:")
                              .on_class<&empty_string>("string")
                              .on<&StringMessages::init_c>("initWithCString:encoding:")
                              .on<&StringMessages::init_utf8>("initWithUTF8String:")
                              .on<&StringMessages::init_string>("initWithString:")
                              .on<&StringMessages::init_bytes>("initWithBytes:length:encoding:")
                              .on<&StringMessages::equal>("isEqualToString:")
                              .on<&StringMessages::c_string>("cStringUsingEncoding:")
                              .on<&StringMessages::bytes>("lengthOfBytesUsingEncoding:")
                              .on<&StringMessages::bytes>("maximumLengthOfBytesUsingEncoding:")
                              .on<&StringMessages::character>("characterAtIndex:")
                              .on<&StringMessages::appending>("stringByAppendingString:")
                              .on<&String::utf8>("UTF8String")
                              .on<&String::utf8>("fileSystemRepresentation")
                              .on<&String::length>("length");

template <class T>
Number* number(T value) {
  auto* n = make<Number>();
  n->value = static_cast<double>(value);
  n->whole = static_cast<long>(value);
  return autoreleased(n);
}
template <class T>
T number_value(Number* n) {
  return static_cast<T>(std::is_floating_point_v<T> ? n->value : n->whole);
}
struct NumberMessages : Number {
  template <class T>
  Number* init(T v) {
    value = static_cast<double>(v);
    whole = static_cast<long>(v);
    return this;
  }
  template <class T>
  T get() {
    return number_value<T>(this);
  }
  bool truth() { return value != 0; }
};
const auto number_class = Define<Number>()
                              .creatable()
                              .on_class<&number<int>>("numberWithInt:")
                              .on_class<&number<unsigned>>("numberWithUnsignedInt:")
                              .on_class<&number<long>>("numberWithInteger:")
                              .on_class<&number<long>>("numberWithLong:")
                              .on_class<&number<long long>>("numberWithLongLong:")
                              .on_class<&number<unsigned long>>("numberWithUnsignedInteger:")
                              .on_class<&number<unsigned long>>("numberWithUnsignedLong:")
                              .on_class<&number<unsigned long long>>("numberWithUnsignedLongLong:")
                              .on_class<&number<bool>>("numberWithBool:")
                              .on_class<&number<float>>("numberWithFloat:")
                              .on_class<&number<double>>("numberWithDouble:")
                              .on<&NumberMessages::init<long>>("initWithInteger:")
                              .on<&NumberMessages::init<unsigned long>>("initWithUnsignedInteger:")
                              .on<&NumberMessages::get<int>>("intValue")
                              .on<&NumberMessages::get<unsigned>>("unsignedIntValue")
                              .on<&NumberMessages::get<long>>("integerValue")
                              .on<&NumberMessages::get<unsigned long>>("unsignedIntegerValue")
                              .on<&NumberMessages::get<float>>("floatValue")
                              .on<&NumberMessages::get<double>>("doubleValue")
                              .on<&NumberMessages::truth>("boolValue");

Array* array_with(Object* const* items, unsigned long n) {
  auto* array = make<Array>();
  for (unsigned long i = 0; i < n; i++) {
    if (!items[i])
      die("NSInvalidArgumentException", "+[NSArray arrayWithObjects:count:]: item %lu is nil", i);
    array->add(items[i]);
  }
  return autoreleased(array);
}
Array* array_with_one(Object* item) { return array_with(&item, 1); }
Array* empty_array() { return array_with(nullptr, 0); }
struct ArrayMessages : Array {
  Array* init(Object* const* all, unsigned long n) {
    for (unsigned long i = 0; i < n; i++) add(all[i]);
    return this;
  }
  Object* first() { return items.empty() ? nullptr : items[0].get(); }
};
const auto array_class = Define<Array>()
                             .creatable()
                             .on_class<&array_with>("arrayWithObjects:count:")
                             .on_class<&array_with_one>("arrayWithObject:")
                             .on_class<&empty_array>("array")
                             .on<&ArrayMessages::init>("initWithObjects:count:")
                             .on<&ArrayMessages::first>("firstObject")
                             .on<&Array::count>("count")
                             .on<&Array::at>("objectAtIndex:");

template <class T>
T* dictionary_with(Object* const* values, Object* const* keys, unsigned long n) {
  auto* d = make<T>();
  for (unsigned long i = 0; i < n; i++) d->set(values[i], keys[i]);
  return autoreleased(d);
}
template <class T>
T* dictionary_with_one(Object* value, Object* key) {
  return dictionary_with<T>(&value, &key, 1);
}
template <class T>
T* empty_dictionary() {
  return autoreleased(make<T>());
}
struct MutableDictionary : Dictionary {
  static constexpr const char* kName = "NSMutableDictionary";
};
Dictionary* dictionary_with_capacity(unsigned long) {
  return empty_dictionary<MutableDictionary>();
}
struct MutableArray : Array {
  static constexpr const char* kName = "NSMutableArray";
};
template <class T>
void define_dictionary(const char* parent) {
  Define<T>(parent)
      .creatable()
      .template on_class<&dictionary_with<T>>("dictionaryWithObjects:forKeys:count:")
      .template on_class<&dictionary_with_one<T>>("dictionaryWithObject:forKey:")
      .template on_class<&empty_dictionary<T>>("dictionary")
      .template on<&Dictionary::count>("count")
      .template on<&Dictionary::at>("objectForKey:")
      .template on<&Dictionary::keys>("allKeys")
      .template on<&Dictionary::values>("allValues");
}
const bool dictionary_class = [] {
  define_dictionary<Dictionary>("NSObject");
  define_dictionary<MutableDictionary>("NSDictionary");
  Define<MutableDictionary>("NSDictionary")
      .on_class<&dictionary_with_capacity>("dictionaryWithCapacity:")
      .on<&Dictionary::set>("setObject:forKey:");
  Define<MutableArray>("NSArray").creatable().on<&Array::add>("addObject:");
  return true;
}();

struct ErrorMessages : Error {
  String* localized() { return new_string(message); }
  String* get_domain() { return new_string(domain); }
  long get_code() { return code; }
  Dictionary* info() { return autoreleased(make<Dictionary>()); }
};
const auto error_class = Define<Error>()
                             .on<&ErrorMessages::localized>("localizedDescription")
                             .on<&ErrorMessages::get_domain>("domain")
                             .on<&ErrorMessages::get_code>("code")
                             .on<&ErrorMessages::info>("userInfo");

Url* file_url(String* path) {
  auto* url = make<Url>();
  url->path = path->value;
  return autoreleased(url);
}
struct UrlMessages : Url {
  Url* init(String* p) {
    path = p->value;
    return this;
  }
  const char* representation() { return path.c_str(); }
  String* get_path() { return new_string(path); }
};
const auto url_class = Define<Url>()
                           .creatable()
                           .on_class<&file_url>("fileURLWithPath:")
                           .on<&UrlMessages::init>("initFileURLWithPath:")
                           .on<&UrlMessages::init>("initWithString:")
                           .on<&UrlMessages::representation>("fileSystemRepresentation")
                           .on<&UrlMessages::get_path>("path");

Data* data_with(const void* bytes, unsigned long n) {
  auto* data = make<Data>();
  data->bytes.assign(static_cast<const char*>(bytes), n);
  return autoreleased(data);
}
const auto data_class = Define<Data>()
                            .creatable()
                            .on_class<&data_with>("dataWithBytes:length:")
                            .on<&Data::pointer>("bytes")
                            .on<&Data::pointer>("mutableBytes")
                            .on<&Data::length>("length");

struct Version {
  long major, minor, patch;
};
struct ProcessInfo : Object {
  static constexpr const char* kName = "NSProcessInfo";
  Version version() { return {environment("METAL_SIM_OS", 15), 0, 0}; }
  String* version_text() {
    return new_string("Version " + std::to_string(version().major) + ".0 (simulated)");
  }
  bool at_least(Version v) { return version().major >= v.major; }
  unsigned long processors() { return static_cast<unsigned long>(sysconf(_SC_NPROCESSORS_ONLN)); }
  unsigned long memory() {
    return static_cast<unsigned long>(sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
  }
};
ProcessInfo* process_info() {
  static auto* info = make<ProcessInfo>();
  return info;
}
const auto process_class = Define<ProcessInfo>()
                               .on_class<&process_info>("processInfo")
                               .on<&ProcessInfo::version>("operatingSystemVersion")
                               .on<&ProcessInfo::version_text>("operatingSystemVersionString")
                               .on<&ProcessInfo::at_least>("isOperatingSystemAtLeastVersion:")
                               .on<&ProcessInfo::processors>("processorCount")
                               .on<&ProcessInfo::processors>("activeProcessorCount")
                               .on<&ProcessInfo::memory>("physicalMemory");

}  // namespace
}  // namespace sim
