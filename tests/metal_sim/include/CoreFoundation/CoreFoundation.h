// What metal-cpp takes from CoreFoundation: a type or two, and INFINITY through its includes.
#pragma once
#include <math.h>
typedef double CFTimeInterval;
typedef const void* CFTypeRef;
