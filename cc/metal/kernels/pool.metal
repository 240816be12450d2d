// Pools, one thread for an output or, in the gradients, for an input. P is the type of the taps.
#include "common.h"
#include "pool_parameters.h"

// Element i of an array [batch, height, width, channels].
struct Pixel {
  int batch, y, x, channel;
};

inline Pixel pixel_of(uint i, int height, int width, int channels) {
  Pixel at;
  at.channel = int(i % uint(channels));
  i /= uint(channels);
  at.x = int(i % uint(width));
  i /= uint(width);
  at.y = int(i % uint(height));
  at.batch = int(i / uint(height));
  return at;
}

inline Pixel out_pixel(constant PoolParameters& p, uint i) {
  return pixel_of(i, p.out_height, p.out_width, p.channels);
}
inline Pixel in_pixel(constant PoolParameters& p, uint i) {
  return pixel_of(i, p.height, p.width, p.channels);
}
inline uint out_count(constant PoolParameters& p) {
  return uint(p.batch) * uint(p.out_height) * uint(p.out_width) * uint(p.channels);
}
inline uint in_count(constant PoolParameters& p) {
  return uint(p.batch) * uint(p.height) * uint(p.width) * uint(p.channels);
}

// The element of x that an output's window has at (row, column), or -1.
inline int seen(constant PoolParameters& p, Pixel out, int row, int column) {
  int y = out.y * p.stride_height - p.pad_height + row * p.gap_height;
  int x = out.x * p.stride_width - p.pad_width + column * p.gap_width;
  if (y < 0 || y >= p.height || x < 0 || x >= p.width) return -1;
  return ((out.batch * p.height + y) * p.width + x) * p.channels + out.channel;
}

// The output whose window has an element of x at (row, column), or -1.
inline int sees(constant PoolParameters& p, Pixel in, int row, int column) {
  int y = in.y + p.pad_height - row * p.gap_height;
  int x = in.x + p.pad_width - column * p.gap_width;
  if (y < 0 || x < 0 || y % p.stride_height != 0 || x % p.stride_width != 0) return -1;
  y /= p.stride_height;
  x /= p.stride_width;
  if (y >= p.out_height || x >= p.out_width) return -1;
  return ((in.batch * p.out_height + y) * p.out_width + x) * p.channels + in.channel;
}

kernel void max_pool(constant PoolParameters& p [[buffer(0)]],
                     device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                     uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < out_count(p); i += step) {
    Pixel out = out_pixel(p, i);
    float largest = -INFINITY;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = seen(p, out, row, column);
        if (at >= 0) largest = maximum(largest, float(x[at]));
      }
    y[i] = T(largest);
  }
}

// Also the number of the first pixel that is the maximum; the first NaN is.
kernel void max_pool_taps(constant PoolParameters& p [[buffer(0)]],
                          device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                          device P* taps [[buffer(3)]], uint first [[thread_position_in_grid]],
                          uint step [[threads_per_grid]]) {
  for (uint i = first; i < out_count(p); i += step) {
    Pixel out = out_pixel(p, i);
    float largest = -INFINITY;
    int tap = -1;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = seen(p, out, row, column);
        if (at < 0) continue;
        float v = float(x[at]);
        if (tap < 0 || v > largest || (v != v && largest == largest)) {
          largest = v;
          tap = row * p.window_width + column;
        }
      }
    y[i] = T(largest);
    taps[i] = P(tap < 0 ? 0 : tap);
  }
}

kernel void max_pool_gradient(constant PoolParameters& p [[buffer(0)]],
                              device const CAREFUL T* dy [[buffer(1)]],
                              device const CAREFUL P* taps [[buffer(2)]],
                              device T* dx [[buffer(3)]], uint first [[thread_position_in_grid]],
                              uint step [[threads_per_grid]]) {
  for (uint i = first; i < in_count(p); i += step) {
    Pixel in = in_pixel(p, i);
    float sum = 0;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = sees(p, in, row, column);
        if (at >= 0 && int(taps[at]) == row * p.window_width + column) sum += float(dy[at]);
      }
    dx[i] = T(sum);
  }
}

kernel void max_pool_pick(constant PoolParameters& p [[buffer(0)]],
                          device const CAREFUL T* x [[buffer(1)]],
                          device const CAREFUL P* taps [[buffer(2)]], device T* y [[buffer(3)]],
                          uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < out_count(p); i += step) {
    int tap = int(taps[i]);
    bool inside = tap >= 0 && tap < p.window_height * p.window_width;
    int at = inside ? seen(p, out_pixel(p, i), tap / p.window_width, tap % p.window_width) : -1;
    y[i] = at >= 0 ? x[at] : T(0.0f);
  }
}

// How many pixels of an output's window count along one axis.
inline int counted(int out, int stride, int pad, int window, int size, int count_padding) {
  if (count_padding) return count_padding == 2 ? 1 : window;
  int begin = max(out * stride - pad, 0), end = min(out * stride - pad + window, size);
  return max(end - begin, 0);
}

inline float divisor(constant PoolParameters& p, int y, int x) {
  int rows = counted(y, p.stride_height, p.pad_height, p.window_height, p.height, p.count_padding);
  int columns = counted(x, p.stride_width, p.pad_width, p.window_width, p.width, p.count_padding);
  return float(max(rows * columns, 1));
}

kernel void avg_pool(constant PoolParameters& p [[buffer(0)]],
                     device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                     uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < out_count(p); i += step) {
    Pixel out = out_pixel(p, i);
    float sum = 0;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = seen(p, out, row, column);
        if (at >= 0) sum += float(x[at]);
      }
    y[i] = T(sum / divisor(p, out.y, out.x));
  }
}

kernel void avg_pool_gradient(constant PoolParameters& p [[buffer(0)]],
                              device const CAREFUL T* dy [[buffer(1)]], device T* dx [[buffer(2)]],
                              uint first [[thread_position_in_grid]],
                              uint step [[threads_per_grid]]) {
  for (uint i = first; i < in_count(p); i += step) {
    Pixel in = in_pixel(p, i);
    float sum = 0;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = sees(p, in, row, column);
        if (at < 0) continue;
        int y = (in.y + p.pad_height - row) / p.stride_height;
        int x = (in.x + p.pad_width - column) / p.stride_width;
        sum += float(dy[at]) / divisor(p, y, x);
      }
    dx[i] = T(sum);
  }
}

kernel void l2_pool(constant PoolParameters& p [[buffer(0)]],
                    device const CAREFUL T* x [[buffer(1)]], device T* y [[buffer(2)]],
                    uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  for (uint i = first; i < out_count(p); i += step) {
    Pixel out = out_pixel(p, i);
    float sum = 0;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = seen(p, out, row, column);
        if (at >= 0) sum += float(x[at]) * float(x[at]);
      }
    y[i] = T(sqrt(sum));
  }
}

kernel void l2_pool_gradient(constant PoolParameters& p [[buffer(0)]],
                             device const CAREFUL T* dy [[buffer(1)]],
                             device const CAREFUL T* x [[buffer(2)]],
                             device const CAREFUL T* y [[buffer(3)]], device T* dx [[buffer(4)]],
                             uint first [[thread_position_in_grid]],
                             uint step [[threads_per_grid]]) {
  for (uint i = first; i < in_count(p); i += step) {
    Pixel in = in_pixel(p, i);
    float sum = 0;
    for (CAREFUL int row = 0; row < p.window_height; row++)
      for (CAREFUL int column = 0; column < p.window_width; column++) {
        int at = sees(p, in, row, column);
        if (at >= 0 && float(y[at]) != 0.0f) sum += float(dy[at]) / float(y[at]);
      }
    dx[i] = T(float(x[i]) * sum);
  }
}
