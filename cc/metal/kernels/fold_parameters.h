// The fold of partial reductions, which lie together for each element of the result.
#pragma once

enum { kFoldSum, kFoldMax, kFoldMin, kFoldProd };

struct FoldParameters {
  int count, parts;
};
static_assert(sizeof(FoldParameters) == 8, "one layout on host and device");
