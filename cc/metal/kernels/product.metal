// The simplest product of matrices, one thread for an element; R is the storage of the result.
#include "gemm_parameters.h"
#include "neuron.h"

constant int kind [[function_constant(0)]];  // of the neuron
constant int has_bias [[function_constant(1)]];

kernel void product_direct(constant GemmParameters& p [[buffer(0)]],
                           device const CAREFUL T* a [[buffer(1)]],
                           device const CAREFUL T* b [[buffer(2)]],
                           device const CAREFUL T* bias [[buffer(3)]], device R* c [[buffer(4)]],
                           uint group [[threadgroup_position_in_grid]],
                           uint index [[thread_index_in_threadgroup]],
                           uint threads [[threads_per_threadgroup]]) {
  uint i = (group + uint(p.first[0])) * threads + index;
  if (i >= uint(p.total)) return;
  int n = int(i) % p.n, m = int(i) / p.n % p.m, batch = int(i) / (p.n * p.m);
  int left = batch * p.a_batch + m * p.a_row, right = batch * p.b_batch + n * p.b_column;
  float sum = 0;
  for (CAREFUL int k = 0; k < p.k; k++)
    sum += float(a[left + k * p.a_column]) * float(b[right + k * p.b_inner]);
  if (has_bias) sum += float(bias[n]);
  c[batch * p.c_batch + m * p.c_row + n] = R(neuron_value(kind, p.a, p.b, p.c, p.log_c, sum));
}
