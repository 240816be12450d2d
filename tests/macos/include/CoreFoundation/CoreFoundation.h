// What metal-cpp uses of CoreFoundation, whose headers only Apple's SDK has.
#pragma once
#include <math.h>

typedef double CFTimeInterval;
typedef const void* CFTypeRef;
