// One pool over [batch, height, width, channels]; a 1-D pool has height 1.
#pragma once

struct PoolParameters {
  int batch, height, width, channels;  // of x
  int out_height, out_width;
  int window_height, window_width;
  int stride_height, stride_width;
  int pad_height, pad_width;  // at the low end
  int gap_height, gap_width;  // dilation
  int count_padding;          // 2 for totals, which nothing divides
};
static_assert(sizeof(PoolParameters) == 60, "one layout on host and device");
