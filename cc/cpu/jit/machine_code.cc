#include "machine_code.h"

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "cpu/isa.h"

#if defined(__x86_64__) && defined(__linux__)

#include <sys/mman.h>

namespace jax_mps::cpu {

bool MachineCode::available() {
  static const bool wanted = [] {
    const char* value = std::getenv("JAX_MPS_MACHINE_CODE");
    return !value || std::string_view(value) != "0";
  }();
  return wanted && isa() >= Isa::v3;
}

// Never writable and executable at once.
std::unique_ptr<MachineCode> MachineCode::make(const std::vector<uint8_t>& code) {
  void* pages =
      mmap(nullptr, code.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  std::unique_ptr<MachineCode> made(new MachineCode(pages, code.size()));
  std::memcpy(pages, code.data(), code.size());
  return mprotect(pages, code.size(), PROT_READ | PROT_EXEC) == 0 ? std::move(made) : nullptr;
}

MachineCode::~MachineCode() { munmap(pages_, bytes_); }

}  // namespace jax_mps::cpu

#else

namespace jax_mps::cpu {

bool MachineCode::available() { return false; }
std::unique_ptr<MachineCode> MachineCode::make(const std::vector<uint8_t>&) { return nullptr; }
MachineCode::~MachineCode() = default;

}  // namespace jax_mps::cpu

#endif
