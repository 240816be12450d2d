// MTLCaptureManager: writes a file that names what was captured, so that the messages and their
// errors can be tested.
#include <sys/stat.h>

#include <fstream>

#include "foundation.h"
#include "rule.h"

namespace sim {
namespace {

struct CaptureDescriptor : Object {
  static constexpr const char* kName = "MTLCaptureDescriptor";
  Ref<Object> object;
  Ref<Url> url;
  long destination = 1;  // developer tools; 2 is a document
  void set_object(Object* o) { object = Ref<Object>(o); }
  void set_destination(long d) { destination = d; }
  void set_url(Url* u) { url = Ref<Url>(u); }
};
const auto descriptor_class = Define<CaptureDescriptor>()
                                  .creatable()
                                  .on<&CaptureDescriptor::set_object>("setCaptureObject:")
                                  .on<&CaptureDescriptor::set_destination>("setDestination:")
                                  .on<&CaptureDescriptor::set_url>("setOutputURL:");

struct CaptureManager : Object {
  static constexpr const char* kName = "MTLCaptureManager";
  bool capturing = false;
  static CaptureManager* shared() {
    static auto* manager = make<CaptureManager>();
    return manager;
  }
  bool supports(long destination) { return destination == 2; }
  bool start(CaptureDescriptor* d, Error** error) {
    if (error) *error = nullptr;
    const char* text = capturing                   ? "a capture is running"
                       : !d->object                ? "captureObject is nil"
                       : !supports(d->destination) ? "only a document can be written"
                       : !d->url                   ? "outputURL is nil"
                                                   : nullptr;
    struct stat found;
    if (!text && stat(d->url->path.c_str(), &found) == 0) text = "outputURL exists already";
    if (text) {
      if (error) *error = new_error("MTLCaptureErrorDomain", 3, text);
      return false;
    }
    std::ofstream(d->url->path) << "metal_sim capture of " << d->object->text() << "\n";
    return capturing = true;
  }
  void stop() { capturing = false; }
  bool is_capturing() { return capturing; }
};
const auto manager_class = Define<CaptureManager>()
                               .on_class<&CaptureManager::shared>("sharedCaptureManager")
                               .on<&CaptureManager::supports>("supportsDestination:")
                               .on<&CaptureManager::start>("startCaptureWithDescriptor:error:")
                               .on<&CaptureManager::stop>("stopCapture")
                               .on<&CaptureManager::is_capturing>("isCapturing");

}  // namespace
}  // namespace sim
