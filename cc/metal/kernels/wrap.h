// Sums, products and extrema of numbers of any type; signed integers wrap around as unsigned ones
// do.
#pragma once
#include "common.h"

inline float added(float a, float b) { return a + b; }
inline float multiplied(float a, float b) { return a * b; }
inline uint added(uint a, uint b) { return a + b; }
inline uint multiplied(uint a, uint b) { return a * b; }
inline int added(int a, int b) { return int(uint(a) + uint(b)); }
inline int multiplied(int a, int b) { return int(uint(a) * uint(b)); }

inline uint maximum(uint a, uint b) { return a > b ? a : b; }
inline uint minimum(uint a, uint b) { return a < b ? a : b; }
inline int maximum(int a, int b) { return a > b ? a : b; }
inline int minimum(int a, int b) { return a < b ? a : b; }
