// Copies between arrays of any strides, picks, and sums of parts.
#pragma once

struct SplitParameters {
  int count, splits;
};
static_assert(sizeof(SplitParameters) == 8, "one layout on host and device");

struct BoxParameters {
  int count, rank, from_offset, to_offset;
  int size[12], from[12], to[12];
};
static_assert(sizeof(BoxParameters) == 160, "one layout on host and device");

struct PickParameters {
  int rows, classes;
};
static_assert(sizeof(PickParameters) == 8, "one layout on host and device");
