// chain(operands...): its code is read, typed and held against the operands in one go.
#include "chain/code.h"
#include "check.h"

namespace jax_mps {
namespace {

const Checker kChain("chain", [](const Node& node) { parse_chain(node); });

}  // namespace
}  // namespace jax_mps
