// Folds the parts of a chain's reduction, a threadgroup for an element. W is a word: float, int or
// uint; R is the storage of the result.
#include "fold_parameters.h"
#include "wrap.h"

constant int fold_op [[function_constant(0)]];

inline W folded(W a, W b) {
  if (fold_op == kFoldSum) return added(a, b);
  if (fold_op == kFoldProd) return multiplied(a, b);
  return fold_op == kFoldMax ? maximum(a, b) : minimum(a, b);
}

kernel void fold(constant FoldParameters& p [[buffer(0)]],
                 device const CAREFUL W* parts [[buffer(1)]], device R* y [[buffer(2)]],
                 uint element [[threadgroup_position_in_grid]],
                 uint thread_index [[thread_index_in_threadgroup]],
                 uint threads [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                 uint simd [[simdgroup_index_in_threadgroup]],
                 uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup W shared[kGroupShared];
  // A thread without a part repeats the last one's, which a maximum bears, a sum and a product do
  // not.
  uint from = element * uint(p.parts);
  W value = parts[from + min(thread_index, uint(p.parts) - 1u)];
  bool none = thread_index >= uint(p.parts);
  if (none && fold_op == kFoldSum) value = W(0);
  if (none && fold_op == kFoldProd) value = W(1);
  for (CAREFUL uint i = thread_index + threads; i < uint(p.parts); i += threads)
    value = folded(value, parts[from + i]);
#ifdef SECOND_FORM
  shared[thread_index] = value;
  uint count = threads;
#else
  for (uint step = 16u; step > 0u; step /= 2u)
    value = folded(value, simd_shuffle_xor(value, ushort(step)));
  if (lane == 0) shared[simd] = value;
  uint count = simds;
#endif
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index != 0) return;
  for (CAREFUL uint i = 1; i < count; i++) value = folded(value, shared[i]);
  y[element] = R(value);
}
