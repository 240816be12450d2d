// Elementary functions that Metal lacks, good to a few units in the last place.
#pragma once
#include "common.h"

inline float log1p(float x) {
  float w = 1.0f + x;
  float result = log(w) + (x - (w - 1.0f)) / w;
  if (x == -1.0f) return -INFINITY;
  return x == 0.0f || x == INFINITY ? x : result;
}

inline float expm1(float x) {
  if (fabs(x) < 0.35f) {
    float p = 0.000198412698f;
    p = p * x + 0.00138888889f;
    p = p * x + 0.00833333333f;
    p = p * x + 0.0416666667f;
    p = p * x + 0.166666667f;
    p = p * x + 0.5f;
    return x == 0.0f ? x : x + x * x * p;
  }
  return exp(x) - 1.0f;
}

inline float logistic(float x) {
  float e = exp(-fabs(x));
  float y = 1.0f / (1.0f + e);
  return x < 0.0f ? e * y : y;
}

inline float erf(float x) {
  float u = x * x;
  float p = 8.51310081e-05f;
  p = p * u - 0.00081756385f;
  p = p * u + 0.00520385909f;
  p = p * u - 0.0268605084f;
  p = p * u + 0.11283715f;
  p = p * u - 0.37612635f;
  p = p * u + 1.12837917f;
  float a = fabs(x);
  float t = a > 4.0f ? 4.0f : a;
  float q = -2.42126304e-06f;  // -log(1 - erf(t)) / t
  q = q * t + 3.84109099e-05f;
  q = q * t - 0.000243311399f;
  q = q * t + 0.000602467194f;
  q = q * t + 0.00161674248f;
  q = q * t - 0.0210185934f;
  q = q * t + 0.10398667f;
  q = q * t + 0.636175506f;
  q = q * t + 1.12845004f;
  float large = copysign(1.0f - exp(-t * q), x);
  return a < 0.9f || x != x ? x * p : large;
}

// A polynomial in w = -log(1 - x^2), which is taken so that nothing cancels near 1.
inline float erf_inv(float x) {
  if (!(x > -1.0f && x < 1.0f)) return x == 1.0f || x == -1.0f ? x * INFINITY : NAN;
  float w = fabs(x) < 0.5f ? -log1p(-x * x) : -log((1.0f - x) * (1.0f + x));
  float p;
  if (w < 5.0f) {
    w = w - 2.5f;
    p = 2.81022636e-08f;
    p = p * w + 3.43273939e-07f;
    p = p * w - 3.5233877e-06f;
    p = p * w - 4.39150654e-06f;
    p = p * w + 0.00021858087f;
    p = p * w - 0.00125372503f;
    p = p * w - 0.00417768164f;
    p = p * w + 0.246640727f;
    p = p * w + 1.50140941f;
  } else {
    w = sqrt(w) - 3.0f;
    p = -0.000200214257f;
    p = p * w + 0.000100950558f;
    p = p * w + 0.00134934322f;
    p = p * w - 0.00367342844f;
    p = p * w + 0.00573950773f;
    p = p * w - 0.0076224613f;
    p = p * w + 0.00943887047f;
    p = p * w + 1.00167406f;
    p = p * w + 2.83297682f;
  }
  return p * x;
}

inline float cbrt(float x) {
  float a = fabs(x);
  // Subnormals may be zeros to the device.
  if (a < 1.17549435e-38f || a == INFINITY || x != x) return x;
  float y = exp(log(a) * 0.333333333f);
  for (CAREFUL int i = 0; i < 2; i++) y -= (y - a / (y * y)) * 0.333333333f;  // y^3 may be infinite
  return copysign(y, x);
}
