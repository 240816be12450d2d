#!/usr/bin/env bash
# optax 0.2.8: rmsprop(centered=True, bias_correction=True, eps_in_sqrt=False) gives NaN in its first update, even in
# float64: mean(g^2) - mean(g)^2, both corrected, is zero but for rounding, and the root of a negative number is taken.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2 optax==0.2.8
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)
optimizer = optax.rmsprop(0.1, centered=True, bias_correction=True, eps_in_sqrt=False)
gradient = jnp.asarray(np.random.default_rng(0).standard_normal(1000))
update, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
count = int(jnp.isnan(update).sum())
print("optax", optax.__version__, "jax", jax.__version__, f"NaN in the first update: {count} of {gradient.size}")
assert update.dtype == jnp.float64 and 50 < count < 500, "the behaviour has changed"
PYTHON
