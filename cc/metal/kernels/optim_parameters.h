// The rules of the optimizers; their hyperparameters are an array, in the order of
// jax_mps/ops/optim.py.
#pragma once

enum { kRuleSgd, kRuleRmsprop, kRuleAdam };
enum { kRegularizationNone, kRegularizationL1, kRegularizationL2 };
