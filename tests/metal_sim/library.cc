// MTLLibrary, MTLFunction, MTLComputePipelineState, MTLBinaryArchive.
#include "library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "rule.h"

namespace sim {
namespace {

// What msl_constant answers from while an image is loaded.
struct Loading {
  ConstantValues* values;
  bool any = false;
  std::string error;
};
thread_local Loading* loading = nullptr;

const std::map<std::string, std::pair<long, size_t>> kTypes = {
    {"float", {3, 4}}, {"half", {16, 2}},  {"int", {29, 4}},
    {"uint", {33, 4}}, {"short", {37, 2}}, {"ushort", {41, 2}},
    {"char", {45, 1}}, {"uchar", {49, 1}}, {"bool", {53, 1}}};

std::string& folder_name() {
  static auto& name = *new std::string;
  return name;
}

Image* load(const std::string& path, ConstantValues* values, bool& has_constants,
            std::string& error) {
  // The images call the simulator, which Python has loaded for the extension's eyes only.
  static const bool shown = [] {
    Dl_info own;
    return dladdr(reinterpret_cast<void*>(&new_library), &own) &&
           dlopen(own.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
  }();
  (void)shown;
  Loading now{values, false, {}};
  loading = &now;
  // A copy under a name of its own, for dlopen gives one image to one file. It stays for the
  // sanitizers' symbols.
  static const std::string folder = [] {
    std::string name = "/tmp/metal_sim_XXXXXX";
    if (!mkdtemp(name.data())) die("temporary files", "cannot make %s", name.c_str());
    atexit([] { (void)!std::system(("rm -rf " + folder_name()).c_str()); });
    folder_name() = name;
    return name;
  }();
  static std::atomic<int> number{0};
  const std::string copy = folder + "/" + std::to_string(number++) + ".so";
  std::ofstream(copy, std::ios::binary) << std::ifstream(path, std::ios::binary).rdbuf();
  void* handle = dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
  loading = nullptr;
  if (!handle) {
    error = dlerror();
    return nullptr;
  }
  has_constants = now.any;
  auto* image = make<Image>();
  image->handle = handle;
  int count = 0;
  auto* table =
      reinterpret_cast<const msl::Kernel* (*)(int*)>(dlsym(handle, "msl_kernels"))(&count);
  for (int i = 0; i < count; i++) image->kernels[table[i].name] = &table[i];
  error = now.error;
  if (!error.empty()) {
    image->release();
    return nullptr;
  }
  return image;
}

}  // namespace

namespace {

struct CompileOptions : Object {
  static constexpr const char* kName = "MTLCompileOptions";
  Ref<Dictionary> macros;
  bool fast = true;
  unsigned long version = 0;
  long math = 0, level = 0;
  void set_macros(Dictionary* d) { macros = Ref<Dictionary>(d); }
  void set_fast(bool on) { fast = on; }
  bool get_fast() { return fast; }
  void set_version(unsigned long v) { version = v; }
  unsigned long get_version() { return version; }
  void set_math(long m) { math = m; }
  void set_level(long l) { level = l; }
};
const auto options_class = Define<CompileOptions>()
                               .creatable()
                               .on<&CompileOptions::set_macros>("setPreprocessorMacros:")
                               .on<&CompileOptions::set_fast>("setFastMathEnabled:")
                               .on<&CompileOptions::get_fast>("fastMathEnabled")
                               .on<&CompileOptions::set_version>("setLanguageVersion:")
                               .on<&CompileOptions::get_version>("languageVersion")
                               .on<&CompileOptions::set_math>("setMathMode:")
                               .on<&CompileOptions::set_level>("setOptimizationLevel:");

}  // namespace

Image::~Image() { dlclose(handle); }

Library* new_library(Device* device, String* source, Object* options, Error** error) {
  std::string text, macros;
  if (auto* given = options ? static_cast<CompileOptions*>(options)->macros.get() : nullptr)
    for (auto& [name, value] : given->items)
      macros += "'-D" + string_of(name.get()) + "=" + value->text() + "' ";
  if (error) *error = nullptr;
  std::string path;
  if (fault("compile"))
    text = "program_source:1: error: injected";
  else
    path = compile_library(source->value, macros, text);
  Ref<Image> image;
  bool has_constants = false;
  if (!path.empty()) image = Ref<Image>::take(load(path, nullptr, has_constants, text));
  if (!image) {
    if (error) *error = new_error("MTLLibraryErrorDomain", 3, text);
    return nullptr;
  }
  auto* library = make<Library>();
  library->path = path;
  library->source = source->value;
  library->plain = image;
  library->has_constants = has_constants;
  library->planted = Planted(source->value);
  library->owner = device;
  return library;
}

namespace {

Function* make_function(Library* library, const std::string& name, ConstantValues* values,
                        Error** error) {
  if (error) *error = nullptr;
  auto fail = [&](const std::string& text) {
    if (error) *error = new_error("MTLLibraryErrorDomain", 5, text);
    return nullptr;
  };
  Ref<Image> image = library->plain;
  if (!image->kernels.count(name)) return fail("the library has no function '" + name + "'");
  if (library->has_constants && values) {
    std::string text;
    bool any;
    image = Ref<Image>::take(load(library->path, values, any, text));
    if (!image) return fail(text);
  }
  auto* function = make<Function>();
  function->function_name = name;
  function->origin = std::make_shared<Origin>(
      library->source, values ? values->by_index : std::map<unsigned long, ConstantValue>());
  function->kernel = image->kernels[name];
  function->image = image;
  function->planted = library->planted;
  function->owner = library->owner;
  return function;
}

struct LibraryMessages : Library {
  Function* plain_function(String* name) {
    return make_function(this, name->value, nullptr, nullptr);
  }
  Function* special_function(String* name, ConstantValues* values, Error** error) {
    return make_function(this, name->value, values, error);
  }
  Array* names() {
    auto* array = make<Array>();
    for (auto& [n, k] : plain->kernels) array->add(new_string(n));
    return autoreleased(array);
  }
  Device* device() { return owner; }
};
const auto library_class =
    Define<Library>("_Labelled")
        .on<&LibraryMessages::plain_function>("newFunctionWithName:")
        .on<&LibraryMessages::special_function>("newFunctionWithName:constantValues:error:")
        .on<&LibraryMessages::names>("functionNames")
        .on<&LibraryMessages::device>("device");

struct ValuesMessages : ConstantValues {
  static size_t size_of(long type) {
    for (auto& [name, known] : kTypes)
      if (known.first == type) return known.second;
    die("function constant", "type %ld is not one that the simulator knows", type);
  }
  void set_at(const void* value, long type, unsigned long index) {
    by_index[index] = {type, std::string(static_cast<const char*>(value), size_of(type))};
  }
  void set_named(const void* value, long type, String* name) {
    by_name[name->value] = {type, std::string(static_cast<const char*>(value), size_of(type))};
  }
  struct Range {
    unsigned long location, length;
  };
  void set_range(const void* values, long type, Range range) {
    for (unsigned long i = 0; i < range.length; i++)
      set_at(static_cast<const char*>(values) + i * size_of(type), type, range.location + i);
  }
  void reset() {
    by_index.clear();
    by_name.clear();
  }
};
const auto values_class = Define<ConstantValues>()
                              .creatable()
                              .on<&ValuesMessages::set_at>("setConstantValue:type:atIndex:")
                              .on<&ValuesMessages::set_named>("setConstantValue:type:withName:")
                              .on<&ValuesMessages::set_range>("setConstantValues:type:withRange:")
                              .on<&ValuesMessages::reset>("reset");

struct FunctionMessages : Function {
  String* get_name() { return new_string(function_name); }
  Device* device() { return owner; }
  unsigned long type() { return 3; }
};
const auto function_class = Define<Function>("_Labelled")
                                .on<&FunctionMessages::get_name>("name")
                                .on<&FunctionMessages::type>("functionType")
                                .on<&FunctionMessages::device>("device");

struct PipelineMessages : Pipeline {
  unsigned long most() { return static_cast<unsigned long>(kernel->max_threads); }
  unsigned long width() { return 32; }
  unsigned long memory() { return 0; }
  Device* device() { return owner; }
};
const auto pipeline_class = Define<Pipeline>("_Labelled")
                                .on<&PipelineMessages::most>("maxTotalThreadsPerThreadgroup")
                                .on<&PipelineMessages::width>("threadExecutionWidth")
                                .on<&PipelineMessages::memory>("staticThreadgroupMemoryLength")
                                .on<&PipelineMessages::device>("device");

struct DescriptorMessages : PipelineDescriptor {
  void set_function(Function* f) { function = Ref<Function>(f); }
  Function* get_function() { return function.get(); }
  void set_archives(Array* a) { archives = Ref<Array>(a); }
  Array* get_archives() { return archives.get(); }
  void set_most(unsigned long n) { most = n; }
  void set_multiple(bool on) { multiple = on; }
};
const auto descriptor_class =
    Define<PipelineDescriptor>("_Labelled")
        .creatable()
        .on<&DescriptorMessages::set_function>("setComputeFunction:")
        .on<&DescriptorMessages::get_function>("computeFunction")
        .on<&DescriptorMessages::set_archives>("setBinaryArchives:")
        .on<&DescriptorMessages::get_archives>("binaryArchives")
        .on<&DescriptorMessages::set_most>("setMaxTotalThreadsPerThreadgroup:")
        .on<&DescriptorMessages::set_multiple>(
            "setThreadGroupSizeIsMultipleOfThreadExecutionWidth:");

}  // namespace

Pipeline* new_pipeline(Device* device, Function* function, Error** error) {
  if (error) *error = nullptr;
  if (!function) {
    violation("nil function", "newComputePipelineState: the function is nil");
    if (error) *error = new_error("MTLComputePipelineErrorDomain", 1, "the function is nil");
    return nullptr;
  }
  if (fault("pipeline")) {
    if (error) *error = new_error("MTLComputePipelineErrorDomain", 2, "injected");
    return nullptr;
  }
  auto* pipeline = make<Pipeline>();
  pipeline->origin = function->origin;
  pipeline->image = function->image;
  pipeline->planted = function->planted;
  pipeline->kernel = function->kernel;
  pipeline->function_name = function->function_name;
  pipeline->owner = device;
  return pipeline;
}
Pipeline* new_pipeline_described(Device* device, PipelineDescriptor* d, unsigned long options,
                                 void* reflection, Error** error) {
  if (reflection) *static_cast<void**>(reflection) = nullptr;
  if (options & 4) {  // MTLPipelineOptionFailOnBinaryArchiveMiss
    bool found = false;
    if (d->archives)
      for (auto& a : d->archives->items)
        for (auto& f : static_cast<Archive*>(a.get())->functions)
          found |= d->function && f == d->function->function_name;
    if (!found) {
      if (error)
        *error =
            new_error("MTLBinaryArchiveErrorDomain", 3, "the archives do not hold the pipeline");
      return nullptr;
    }
  }
  Pipeline* pipeline = new_pipeline(device, d->function.get(), error);
  if (pipeline) pipeline->name = d->name;
  return pipeline;
}

}  // namespace sim

extern "C" bool msl_constant(int index, const char* name, const char* type, void* value,
                             size_t bytes) {
  using namespace sim;
  if (!loading) return false;
  loading->any = true;
  if (!loading->values) return false;
  const ConstantValue* found = nullptr;
  if (auto v = loading->values->by_index.find(static_cast<unsigned long>(index));
      v != loading->values->by_index.end())
    found = &v->second;
  if (auto v = loading->values->by_name.find(name); v != loading->values->by_name.end())
    found = &v->second;
  if (!found) return false;
  if (!value) return true;
  if (kTypes.at(type).first != found->type) {
    loading->error = "function constant '" + std::string(name) + "' is " + type +
                     ", and its value is of data type " + std::to_string(found->type);
    return false;
  }
  memcpy(value, found->bytes.data(), std::min(bytes, found->bytes.size()));
  return true;
}
