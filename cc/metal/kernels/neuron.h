// f(x) and dy f'(x) of the neurons. At a kink the derivative is the one of the lower side, of
// hard_sigmoid that of the slope, of absolute 0. Where it is 0, an infinite dy counts for nothing.
#pragma once
#include "math.h"
#include "neuron_parameters.h"

inline float times(float slope, float x) { return slope == 0.0f ? 0.0f : slope * x; }
inline float leaky(float x, float a) { return x <= 0.0f ? times(a, x) : x; }

inline float neuron_value(int kind, float a, float b, float c, float log_c, float x) {
  switch (kind) {
    case kNeuronRelu:
      return leaky(x, a);
    case kNeuronLinear:
      return a * x + b;
    case kNeuronSigmoid:
      return logistic(x);
    case kNeuronHardSigmoid: {
      float t = a * x + b;
      return t < 0.0f ? 0.0f : (t > 1.0f ? 1.0f : t);
    }
    case kNeuronTanh:
      return a * precise::tanh(b * x);
    case kNeuronAbsolute:
      return fabs(x);
    case kNeuronSoftplus:
      return a * (maximum(b * x, 0.0f) + log1p(exp(-fabs(b * x))));
    case kNeuronSoftsign:
      return x / (1.0f + fabs(x));
    case kNeuronElu:
      return x > 0.0f || x != x ? x : a * expm1(x);
    case kNeuronRelun:
      return minimum(leaky(x, a), b);
    case kNeuronPower:
      return pow(a * x + b, c);
    case kNeuronExponential:
      return exp((a * x + b) * log_c);
    case kNeuronLogarithm:
      return log(a * x + b) / log_c;
    case kNeuronGelu:
      return 0.5f * x * (1.0f + erf(x * 0.707106781f));
  }
  return x;
}

inline float neuron_derivative(int kind, float a, float b, float c, float log_c, float x) {
  switch (kind) {
    case kNeuronRelu:
      return x <= 0.0f ? a : 1.0f;
    case kNeuronLinear:
      return a;
    case kNeuronSigmoid: {
      float y = logistic(-fabs(x));  // the smaller half: 1 - y loses nothing
      return y * (1.0f - y);
    }
    case kNeuronHardSigmoid: {
      float t = a * x + b;
      return t < 0.0f || t > 1.0f ? 0.0f : a;
    }
    case kNeuronTanh: {
      float y = logistic(-fabs(2.0f * b * x));  // 1 - tanh(t)^2 = 4 s(2t) (1 - s(2t))
      return 4.0f * a * b * y * (1.0f - y);
    }
    case kNeuronAbsolute:
      return x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x);
    case kNeuronSoftplus:
      return a * b * logistic(b * x);
    case kNeuronSoftsign: {
      float t = 1.0f + fabs(x);
      return 1.0f / (t * t);
    }
    case kNeuronElu:
      return x > 0.0f ? 1.0f : a * exp(x);
    case kNeuronRelun:
      return leaky(x, a) >= b ? 0.0f : (x <= 0.0f ? a : 1.0f);
    case kNeuronPower:
      return c == 0.0f ? 0.0f : a * c * pow(a * x + b, c - 1.0f);
    case kNeuronExponential:
      return a * log_c * exp((a * x + b) * log_c);
    case kNeuronLogarithm:
      return a / (a * x + b) / log_c;
    case kNeuronGelu:
      return 0.5f * (1.0f + erf(x * 0.707106781f)) + x * 0.398942280f * exp(-0.5f * x * x);
  }
  return 1.0f;
}

inline float behind_neuron(int kind, float a, float b, float c, float log_c, float dy, float x) {
  float slope = neuron_derivative(kind, a, b, c, log_c, x);
  bool flat = kind == kNeuronRelu || kind == kNeuronRelun || kind == kNeuronHardSigmoid ||
              kind == kNeuronPower;
  return flat ? times(slope, dy) : dy * slope;
}
