// A neuron as kernels take it. The order of the kinds is that of cc/cpu/loops/neuron.h.
#pragma once

enum {
  kNeuronNone,
  kNeuronRelu,
  kNeuronLinear,
  kNeuronSigmoid,
  kNeuronHardSigmoid,
  kNeuronTanh,
  kNeuronAbsolute,
  kNeuronSoftplus,
  kNeuronSoftsign,
  kNeuronElu,
  kNeuronRelun,
  kNeuronPower,
  kNeuronExponential,
  kNeuronLogarithm,
  kNeuronGelu
};

struct NeuronParameters {
  float a, b, c, log_c;
};
static_assert(sizeof(NeuronParameters) == 16, "one layout on host and device");

struct ElementwiseParameters {
  int count, channels;
  float a, b, c, log_c;
};
static_assert(sizeof(ElementwiseParameters) == 24, "one layout on host and device");
