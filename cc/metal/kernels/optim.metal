// One leaf of sgd, rmsprop or adam. G, W, S and R are the storage of gradients, parameters, states
// and the result. An array that a rule lacks is bound to another one, and is not touched.
#include "common.h"
#include "optim_parameters.h"

constant int rule [[function_constant(0)]];
constant int states [[function_constant(1)]];
constant int nesterov [[function_constant(2)]];
constant int centered [[function_constant(3)]];
constant int regularization [[function_constant(4)]];
constant int apply [[function_constant(5)]];

inline float with_momentum(device const float* h, float d, bool has_trace, thread float& trace) {
  d = h[1] * d;
  if (!has_trace) return h[2] * d;
  trace = h[0] * trace + d;
  return h[2] * (nesterov ? h[0] * trace + d : trace);
}

inline float sgd(device const float* h, float g, thread float* state) {
  return with_momentum(h, g, states > 0, state[0]);
}

inline float rmsprop(device const float* h, float g, thread float* state) {
  float decay = h[3], rest = h[4], correction = h[5], eps_root = h[6], eps = h[7];
  // Centred, the first state is the variance, which grows by squares alone: nothing cancels.
  float off = centered ? g - state[1] : g;
  state[0] = decay * state[0] + (centered ? correction : rest) * (off * off);
  if (centered) state[1] += rest * off;
  float spread = centered ? state[0] : correction * state[0];
  float d = g / (sqrt(spread + eps_root) + eps);
  return with_momentum(h, d, states > 1 + centered, state[centered ? 2 : 1]);
}

inline float adam(device const float* h, float g, thread float* state) {
  float b1 = h[0], rest1 = h[1], b2 = h[2], rest2 = h[3], step_mu = h[4], step_gradient = h[5];
  float correction = h[6], eps_root = h[7], eps = h[8];
  state[0] = b1 * state[0] + rest1 * g;
  state[1] = b2 * state[1] + rest2 * (g * g);
  float largest = correction * state[1];
  if (states > 2) {
    state[2] = maximum(state[2], largest);
    largest = state[2];
  }
  return (step_mu * state[0] + step_gradient * g) / (sqrt(largest + eps_root) + eps);
}

kernel void optimizer(constant int& count [[buffer(0)]], device const float* hyper [[buffer(1)]],
                      device const G* gradient [[buffer(2)]], device const W* weight [[buffer(3)]],
                      device const S0* state0 [[buffer(4)]], device const S1* state1 [[buffer(5)]],
                      device const S2* state2 [[buffer(6)]], device R* result [[buffer(7)]],
                      device S0* new_state0 [[buffer(8)]], device S1* new_state1 [[buffer(9)]],
                      device S2* new_state2 [[buffer(10)]],
                      uint first [[thread_position_in_grid]], uint step [[threads_per_grid]]) {
  float clip_min = hyper[0], clip_max = hyper[1], rescale = hyper[2], scale = hyper[3];
  device const float* h = hyper + 4;
  for (uint i = first; i < uint(count); i += step) {
    float g = float(gradient[i]);
    g = g < clip_min ? clip_min : g;
    g = g > clip_max ? clip_max : g;
    g *= rescale;
    float w = 0;
    if (apply || regularization != kRegularizationNone) w = float(weight[i]);
    if (regularization == kRegularizationL1)
      g += scale * (w > 0.0f ? 1.0f : (w < 0.0f ? -1.0f : w));
    if (regularization == kRegularizationL2) g += scale * w;
    float state[3] = {0, 0, 0};
    if (states > 0) state[0] = float(state0[i]);
    if (states > 1) state[1] = float(state1[i]);
    if (states > 2) state[2] = float(state2[i]);
    float update = 0;
    if (rule == kRuleSgd) update = sgd(h, g, state);
    if (rule == kRuleRmsprop) update = rmsprop(h, g, state);
    if (rule == kRuleAdam) update = adam(h, g, state);
    if (states > 0) new_state0[i] = S0(state[0]);
    if (states > 1) new_state1[i] = S1(state[1]);
    if (states > 2) new_state2[i] = S2(state[2]);
    result[i] = R(apply ? w + update : update);
  }
}
