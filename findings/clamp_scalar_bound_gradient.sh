#!/usr/bin/env bash
# jax 0.10.2 and 0.12.0: lax.clamp takes scalar bounds for an array, but the gradient of such a bound raises TypeError; and
# the gradient of jnp.abs is 1 at zero, where that of jnp.sign(x) * x is 0, and -1 at NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax import lax

x = jnp.arange(3.0)
value = float(lax.clamp(0.5, x, 2.0).sum())
try:
    jax.grad(lambda low: lax.clamp(low, x, 2.0).sum())(0.5)
    said = "no error"
except TypeError as error:
    said = str(error).splitlines()[0]
at_zero, at_nan = float(jax.grad(jnp.abs)(0.0)), float(jax.grad(jnp.abs)(jnp.nan))
print("jax", jax.__version__, "clamp", value, "its gradient:", said)
print("gradient of abs at 0", at_zero, "at NaN", at_nan)
assert value == 3.5 and "select cases must have the same shapes" in said, "the behaviour has changed"
assert at_zero == 1.0 and at_nan == -1.0, "the behaviour has changed"
PYTHON
