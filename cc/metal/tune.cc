#include "tune.h"

namespace jax_mps::metal {

size_t choose(Device& device, const Node& node, const std::vector<Recipe>& candidates) { return 0; }

}  // namespace jax_mps::metal
