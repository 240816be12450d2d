// dropout's shape, in merged axes; an axis along which the mask is broadcast has stride 0 in it.
#pragma once

struct DropoutParameters {
  int count, rank;
  unsigned threshold;
  float keep;
  int size[8], stride[8];
};
static_assert(sizeof(DropoutParameters) == 80, "one layout on host and device");
