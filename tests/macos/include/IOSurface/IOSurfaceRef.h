// What metal-cpp uses of IOSurface, whose headers only Apple's SDK has.
#pragma once
typedef struct __IOSurface* IOSurfaceRef;
