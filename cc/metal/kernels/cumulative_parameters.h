// Cumulative sums, products and extrema of arrays [before, n, after].
#pragma once

enum { kCumulativeSum, kCumulativeProd, kCumulativeMax, kCumulativeMin };

struct CumulativeParameters {
  int lines, n, after, reverse;  // lines: before * after
};
static_assert(sizeof(CumulativeParameters) == 16, "one layout on host and device");
