// Libraries from embedded or generated text, pipelines by function constants, and their archive on
// disk.
#include <filesystem>

#include "device.h"
#include "metal/sources.h"

namespace jax_mps::metal {
namespace {

std::string text_of_kernel(const Dispatch& dispatch) {
  return "#include <metal_stdlib>\nusing namespace metal;\n" + dispatch.definitions +
         (dispatch.file.empty() ? dispatch.text : std::string(source(dispatch.file)));
}

std::string safe_file_name(std::string name) {
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

}  // namespace

Owned<MTL::Library> Device::library(const Dispatch& dispatch) {
  std::string key = dispatch.definitions + (dispatch.file.empty() ? dispatch.text : dispatch.file);
  {
    std::lock_guard lock(mutex_);
    auto found = libraries_.find(key);
    if (found != libraries_.end()) return found->second;
  }
  auto options = own(MTL::CompileOptions::alloc()->init());
  options->setLanguageVersion(MTL::LanguageVersion3_1);  // bfloat
  options->setFastMathEnabled(false);                    // NaN and infinity count
  NS::Error* error = nullptr;
  auto library =
      own(device_->newLibrary(ns_string(text_of_kernel(dispatch)), options.get(), &error));
  if (!library)
    throw ProgramError("Metal does not compile " + dispatch.function + ": " + words_of(error));
  std::lock_guard lock(mutex_);
  return libraries_.try_emplace(key, std::move(library)).first->second;
}

Owned<MTL::ComputePipelineState> Device::pipeline(const Dispatch& dispatch) {
  std::string key = dispatch.definitions + (dispatch.file.empty() ? dispatch.text : dispatch.file) +
                    '/' + dispatch.function;
  for (int constant : dispatch.function_constants) key += ',' + std::to_string(constant);
  {
    std::lock_guard lock(mutex_);
    auto found = pipelines_.find(key);
    if (found != pipelines_.end()) return found->second;
    auto failed = failures_.find(key);
    if (failed != failures_.end()) throw ProgramError(failed->second);
  }
  try {
    auto pipeline = compile(dispatch);
    std::lock_guard lock(mutex_);
    return pipelines_.try_emplace(key, std::move(pipeline)).first->second;
  } catch (const ProgramError& error) {
    std::lock_guard lock(mutex_);
    failures_.try_emplace(key, error.what());
    throw;
  }
}

Owned<MTL::ComputePipelineState> Device::compile(const Dispatch& dispatch) {
  auto fail = [&](const NS::Error* error) -> void {
    throw ProgramError("Metal makes no pipeline of " + dispatch.function + ": " + words_of(error));
  };
  auto library = this->library(dispatch);
  auto constants = own(MTL::FunctionConstantValues::alloc()->init());
  for (size_t i = 0; i < dispatch.function_constants.size(); i++)
    constants->setConstantValue(&dispatch.function_constants[i], MTL::DataTypeInt, i);
  NS::Error* error = nullptr;
  auto function = own(library->newFunction(ns_string(dispatch.function), constants.get(), &error));
  if (!function) fail(error);
  auto descriptor = own(MTL::ComputePipelineDescriptor::alloc()->init());
  descriptor->setComputeFunction(function.get());
  descriptor->setLabel(ns_string(dispatch.function));
  Owned<MTL::ComputePipelineState> pipeline;
  if (archive_) {
    std::lock_guard lock(mutex_);
    descriptor->setBinaryArchives(NS::Array::array(archive_.get()));
    pipeline = own(device_->newComputePipelineState(
        descriptor.get(), MTL::PipelineOptionFailOnBinaryArchiveMiss, nullptr, &error));
    if (!pipeline && archive_->addComputePipelineFunctions(descriptor.get(), &error))
      archive_grew_ = true;
  }
  error = nullptr;
  if (!pipeline)
    pipeline = own(device_->newComputePipelineState(descriptor.get(), MTL::PipelineOptionNone,
                                                    nullptr, &error));
  if (!pipeline) fail(error);
  size_t threads = dispatch.threads[0] * dispatch.threads[1] * dispatch.threads[2];
  if (threads > pipeline->maxTotalThreadsPerThreadgroup())
    throw ProgramError(dispatch.function + " needs " + std::to_string(threads) +
                       " threads in a group, but this GPU gives it " +
                       std::to_string(pipeline->maxTotalThreadsPerThreadgroup()));
  return pipeline;
}

void Device::open_archive() {
  std::string folder = cache_folder();
  if (folder.empty()) return;
  std::string system = text_of(NS::ProcessInfo::processInfo()->operatingSystemVersionString());
  archive_path_ = folder + "/pipelines-" + safe_file_name(name_ + "-" + system) + "-" +
                  source_version() + ".metalarchive";
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  auto descriptor = own(MTL::BinaryArchiveDescriptor::alloc()->init());
  NS::Error* error = nullptr;
  if (std::filesystem::exists(archive_path_, code)) {
    descriptor->setUrl(NS::URL::fileURLWithPath(ns_string(archive_path_)));
    archive_ = own(device_->newBinaryArchive(descriptor.get(), &error));
    if (archive_) return;
    descriptor->setUrl(nullptr);  // one that this system cannot read is made anew
  }
  archive_ = own(device_->newBinaryArchive(descriptor.get(), &error));
}

void Device::save_pipelines() {
  Pool pool;
  std::lock_guard lock(mutex_);
  if (!archive_ || !archive_grew_) return;
  archive_grew_ = false;
  // Under another name first: other processes may be reading.
  std::string path = archive_path_ + "." + std::to_string(getpid());
  NS::Error* error = nullptr;
  std::error_code code;
  if (archive_->serializeToURL(NS::URL::fileURLWithPath(ns_string(path)), &error))
    std::filesystem::rename(path, archive_path_, code);
  else
    std::filesystem::remove(path, code);
}

}  // namespace jax_mps::metal
