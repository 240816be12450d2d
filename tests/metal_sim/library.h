// Libraries compiled from source, functions specialised by constants, pipelines, binary archives.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "foundation.h"
#include "msl/shim/abi.h"
#include "resource.h"
#include "rule.h"

namespace sim {

// The shared library of a source text, from the cache or compiled now; empty with an error text.
std::string compile_library(const std::string& source, const std::string& macros,
                            std::string& error);

struct ConstantValue {
  long type;
  std::string bytes;
};

struct ConstantValues : Object {
  static constexpr const char* kName = "MTLFunctionConstantValues";
  std::map<unsigned long, ConstantValue> by_index;
  std::map<std::string, ConstantValue> by_name;
};

// One dlopen'ed copy of a compiled library, with the function constants of one pipeline.
struct Image : Object {
  static constexpr const char* kName = "_Image";
  void* handle = nullptr;
  std::map<std::string, const msl::Kernel*> kernels;
  ~Image() override;
};

// What a pipeline is made of.
struct Origin {
  std::string source;
  std::map<unsigned long, ConstantValue> constants;
};

struct Library : Labelled {
  static constexpr const char* kName = "MTLLibrary";
  Planted planted;
  std::string path, source;
  Ref<Image> plain;  // without constants
  bool has_constants = false;
  Device* owner = nullptr;
};

struct Function : Labelled {
  static constexpr const char* kName = "MTLFunction";
  Planted planted;
  std::string function_name;
  std::shared_ptr<const Origin> origin;
  Ref<Image> image;
  const msl::Kernel* kernel = nullptr;
  Device* owner = nullptr;
};

struct Pipeline : Labelled {
  static constexpr const char* kName = "MTLComputePipelineState";
  Planted planted;
  std::shared_ptr<const Origin> origin;
  Ref<Image> image;
  const msl::Kernel* kernel = nullptr;
  std::string function_name;
  Device* owner = nullptr;
};

struct Archive : Labelled {
  static constexpr const char* kName = "MTLBinaryArchive";
  std::vector<std::string> functions;
  Device* owner = nullptr;
};

struct PipelineDescriptor : Labelled {
  static constexpr const char* kName = "MTLComputePipelineDescriptor";
  Ref<Function> function;
  Ref<Array> archives;
  unsigned long most = 0;
  bool multiple = false;
};

Library* new_library(Device* device, String* source, Object* options, Error** error);
Pipeline* new_pipeline(Device* device, Function* function, Error** error);
Pipeline* new_pipeline_described(Device* device, PipelineDescriptor* descriptor,
                                 unsigned long options, void* reflection, Error** error);
Archive* new_archive(Device* device, Object* descriptor, Error** error);

}  // namespace sim
