// Sums over the rows of [rows, channels], in two levels: each of `parts` threads a channel sums
// every `parts`-th row, then a threadgroup for each channel adds the parts.
#pragma once

struct ColumnParameters {
  int rows, channels, parts;
  float epsilon, slope;
};
static_assert(sizeof(ColumnParameters) == 20, "one layout on host and device");

// Rows that a thread reads before it needs the first of them.
enum { kRowsAtOnce = 4 };

struct NormalizeParameters {
  int rows, channels;
  float epsilon, a, b, c, log_c;  // and the neuron's
};
static_assert(sizeof(NormalizeParameters) == 28, "one layout on host and device");
