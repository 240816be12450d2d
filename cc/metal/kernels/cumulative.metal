// Cumulative sums, products and extrema, a thread for a line. A is what a line is summed in: float,
// int or uint.
#include "cumulative_parameters.h"
#include "wrap.h"

constant int cumulative_kind [[function_constant(0)]];

// What a sum lost by rounding; nothing of what is not finite.
inline float lost(float a, float b, float sum) {
  float error = fabs(a) >= fabs(b) ? (a - sum) + b : (b - sum) + a;
  return fabs(sum) < INFINITY ? error : 0.0f;
}
inline int lost(int a, int b, int sum) { return 0; }
inline uint lost(uint a, uint b, uint sum) { return 0u; }

kernel void cumulative(constant CumulativeParameters& p [[buffer(0)]],
                       device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                       uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint line = first; line < uint(p.lines); line += step) {
    uint start = line / uint(p.after) * uint(p.n) * uint(p.after) + line % uint(p.after);
    A total = A(0), rest = A(0);  // of a sum what its rounding left over
    for (CAREFUL uint i = 0; i < uint(p.n); i++) {
      uint at = start + (p.reverse != 0 ? uint(p.n) - 1u - i : i) * uint(p.after);
      A more = A(x[at]), before = total;
      if (i == 0) {
        total = more;
      } else if (cumulative_kind == kCumulativeSum) {
        A sum = added(before, more);
        A left = added(rest, lost(before, more, sum));
        total = left == A(0) ? sum : added(sum, left);  // the sum of negative zeros is one
        rest = lost(sum, left, total);
      } else if (cumulative_kind == kCumulativeProd) {
        total = multiplied(before, more);
      } else {
        total = cumulative_kind == kCumulativeMax ? maximum(before, more) : minimum(before, more);
      }
      y[at] = T(total);
    }
  }
}
