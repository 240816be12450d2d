// dropout(x, key): x / keep where the mask of the key is set, else 0. random_bits(key): the bits
// that the mask is made of.
#include "common.h"
#include "dropout_parameters.h"

inline uint rotate_left(uint x, uint by) { return (x << by) | (x >> (32 - by)); }

// threefry2x32 with 20 rounds of the counter (0, index); the halves are joined as JAX joins them.
inline uint threefry(uint key0, uint key1, uint index) {
  uint keys[3] = {key0, key1, key0 ^ key1 ^ 0x1bd11bdau};
  uint turns[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  uint x = keys[0], y = index + keys[1];
  for (CAREFUL uint round = 0; round < 5; round++) {
    for (CAREFUL uint i = 0; i < 4; i++) {
      x += y;
      y = x ^ rotate_left(y, turns[round % 2 * 4 + i]);
    }
    x += keys[(round + 1) % 3];
    y += keys[(round + 2) % 3] + round + 1;
  }
  return x ^ y;
}

kernel void dropout(constant DropoutParameters& p [[buffer(0)]],
                    device const CAREFUL T* x [[buffer(1)]],
                    device const CAREFUL uint* key [[buffer(2)]], device T* y [[buffer(3)]],
                    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(p.count); i += step) {
    uint index = 0, rest = i;
    for (CAREFUL int axis = p.rank - 1; axis >= 0; axis--) {
      index += rest % uint(p.size[axis]) * uint(p.stride[axis]);
      rest /= uint(p.size[axis]);
    }
    bool kept = (threefry(key[0], key[1], index) >> 9) < p.threshold;
    y[i] = kept ? T(float(x[i]) / p.keep) : T(0.0f);
  }
}

kernel void random_bits(constant int& count [[buffer(0)]],
                        device const CAREFUL uint* key [[buffer(1)]], device uint* y [[buffer(2)]],
                        uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < uint(count); i += step) y[i] = threefry(key[0], key[1], i);
}
