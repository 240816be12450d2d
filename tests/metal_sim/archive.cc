// MTLBinaryArchive: a file that lists its functions, for the compiled code has its own cache.
#include <fstream>

#include "library.h"
#include "rule.h"

namespace sim {
namespace {

struct ArchiveDescriptor : Object {
  static constexpr const char* kName = "MTLBinaryArchiveDescriptor";
  Ref<Url> url;
  void set_url(Url* u) { url = Ref<Url>(u); }
  Url* get_url() { return url.get(); }
};
const auto descriptor_class = Define<ArchiveDescriptor>()
                                  .creatable()
                                  .on<&ArchiveDescriptor::set_url>("setUrl:")
                                  .on<&ArchiveDescriptor::get_url>("url");

constexpr const char* kMagic = "metal_sim binary archive";

struct ArchiveMessages : Archive {
  bool add(PipelineDescriptor* d, Error** error) {
    if (!d->function) {
      if (error)
        *error = new_error("MTLBinaryArchiveErrorDomain", 1, "the descriptor has no function");
      return false;
    }
    functions.push_back(d->function->function_name);
    return true;
  }
  bool serialize(Url* url, Error** error) {
    if (error) *error = nullptr;
    std::ofstream file(url->path);
    file << kMagic << "\n";
    for (auto& f : functions) file << f << "\n";
    file.close();
    if (file && !fault("archive")) return true;
    if (error) *error = new_error("MTLBinaryArchiveErrorDomain", 1, "cannot write " + url->path);
    return false;
  }
  Device* device() { return owner; }
};
const auto archive_class =
    Define<Archive>("_Labelled")
        .on<&ArchiveMessages::add>("addComputePipelineFunctionsWithDescriptor:error:")
        .on<&ArchiveMessages::serialize>("serializeToURL:error:")
        .on<&ArchiveMessages::device>("device");

}  // namespace

Archive* new_archive(Device* device, Object* descriptor, Error** error) {
  if (error) *error = nullptr;
  auto* archive = make<Archive>();
  archive->owner = device;
  Url* url = static_cast<ArchiveDescriptor*>(descriptor)->url.get();
  if (!url) return archive;
  std::ifstream file(url->path);
  std::string line;
  std::getline(file, line);
  if (!file || line != kMagic) {
    if (error)
      *error = new_error("MTLBinaryArchiveErrorDomain", file ? 1 : 2,
                         "no binary archive in " + url->path);
    archive->release();
    return nullptr;
  }
  while (std::getline(file, line)) archive->functions.push_back(line);
  return archive;
}

}  // namespace sim
