// What the generated kernels of chains call: lax's exact meaning where Metal's own differs.
#include "math.h"

inline int add_int(int a, int b) { return int(uint(a) + uint(b)); }
inline int sub_int(int a, int b) { return int(uint(a) - uint(b)); }
inline int mul_int(int a, int b) { return int(uint(a) * uint(b)); }
inline int neg_int(int x) { return int(0u - uint(x)); }
inline int abs_int(int x) { return x < 0 ? neg_int(x) : x; }
inline int sign_int(int x) { return (x > 0 ? 1 : 0) - (x < 0 ? 1 : 0); }
inline int div_int(int a, int b) {
  if (b == 0) return -1;
  return b == -1 ? neg_int(a) : a / b;
}
inline int rem_int(int a, int b) {
  if (b == 0) return a;
  return b == -1 ? 0 : a % b;
}
inline uint div_uint(uint a, uint b) { return b == 0u ? 0xffffffffu : a / b; }
inline uint rem_uint(uint a, uint b) { return b == 0u ? a : a % b; }
inline int max_int(int a, int b) { return a > b ? a : b; }
inline int min_int(int a, int b) { return a < b ? a : b; }
inline uint max_uint(uint a, uint b) { return a > b ? a : b; }
inline uint min_uint(uint a, uint b) { return a < b ? a : b; }
inline uint shift_left(uint a, uint b) { return b < 32u ? a << b : 0u; }
inline uint shift_right(uint a, uint b) { return b < 32u ? a >> b : 0u; }
inline int shift_right_arithmetic(int a, uint b) { return a >> (b < 32u ? b : 31u); }
// Zeros by their bits: the device may compare subnormals as zeros.
inline float sign_float(float x) {
  return (as_type<uint>(x) & 0x7fffffffu) == 0u || x != x ? x : copysign(1.0f, x);
}
// As fmod, which is told of x - y trunc(x / y), is for an infinite y and for the sign of a zero.
inline float rem_float(float x, float y) {
  if (fabs(x) < fabs(y)) return x;
  float r = fmod(x, y);
  return r == 0.0f ? copysign(0.0f, x) : r;
}
inline float round_away(float x) {
  float whole = trunc(x);
  float next = fabs(x - whole) >= 0.5f ? 1.0f : 0.0f;  // false for the NaN of inf - inf
  return copysign(fabs(whole) + next, x);
}
inline int to_int(float x) {
  if (x != x) return 0;
  if (x >= 2147483648.0f) return 2147483647;
  return x < -2147483648.0f ? -2147483647 - 1 : int(x);
}
inline uint to_uint(float x) {
  if (!(x > 0.0f)) return 0u;
  return x >= 4294967296.0f ? 0xffffffffu : uint(x);
}
