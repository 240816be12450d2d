// Run-time choice among the instruction sets that the files of loops/ are compiled for.
//
// Each file of loops/ is compiled once per instruction set, with JAX_MPS_ISA as the namespace of
// everything in it (so no function of one set can be linked into another), and defines one table of
// function pointers that its header declares with JAX_MPS_LOOPS(Table, name). name() gives the best
// table for this machine.
#pragma once

#include <cstdint>

namespace jax_mps::cpu {

enum class Isa {
  baseline,
  v3,
  v4
};  // x86-64-v2 or the platform's own baseline, x86-64-v3, x86-64-v4
Isa isa();  // JAX_MPS_ISA=baseline|v3 in the environment lowers it, for tests
const char* isa_name();

}  // namespace jax_mps::cpu

#ifdef JAX_MPS_MULTI_ISA
#define JAX_MPS_LOOPS(Table, name)     \
  namespace baseline {                 \
  extern const Table name##_table;     \
  }                                    \
  namespace v3 {                       \
  extern const Table name##_table;     \
  }                                    \
  namespace v4 {                       \
  extern const Table name##_table;     \
  }                                    \
  inline const Table& name() {         \
    switch (isa()) {                   \
      case Isa::v4:                    \
        return v4::name##_table;       \
      case Isa::v3:                    \
        return v3::name##_table;       \
      default:                         \
        return baseline::name##_table; \
    }                                  \
  }
#else
#define JAX_MPS_LOOPS(Table, name) \
  namespace baseline {             \
  extern const Table name##_table; \
  }                                \
  inline const Table& name() { return baseline::name##_table; }
#endif
