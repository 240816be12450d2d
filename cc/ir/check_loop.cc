// loop(consts, carry, xs): what its node says and what its body is must agree.
#include "check.h"
#include "loop.h"

namespace jax_mps {
namespace {

const Checker kLoop("loop", [](const Node& node) { LoopShape{node}; });

}  // namespace
}  // namespace jax_mps
