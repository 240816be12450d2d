// Rows of classes.
#pragma once

struct SoftmaxParameters {
  int rows, classes;
  float smoothing;
};
static_assert(sizeof(SoftmaxParameters) == 12, "one layout on host and device");
