#include "isa.h"

#include <cstdlib>
#include <string_view>

namespace jax_mps::cpu {
namespace {

Isa detect() {
#ifdef JAX_MPS_MULTI_ISA
  const char* wanted = std::getenv("JAX_MPS_ISA");
  std::string_view limit = wanted ? wanted : "";
  if (limit == "baseline") return Isa::baseline;
  if (__builtin_cpu_supports("x86-64-v4") && limit != "v3") return Isa::v4;
  if (__builtin_cpu_supports("x86-64-v3")) return Isa::v3;
#endif
  return Isa::baseline;
}

}  // namespace

Isa isa() {
  static const Isa isa = detect();
  return isa;
}

const char* isa_name() {
#ifdef JAX_MPS_MULTI_ISA
  constexpr const char* names[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};
  return names[static_cast<int>(isa())];
#else
  return "baseline";
#endif
}

}  // namespace jax_mps::cpu
