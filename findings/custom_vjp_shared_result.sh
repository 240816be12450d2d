#!/usr/bin/env bash
# jax 0.10.2: under vmap, jax.custom_vjp gives a result that the whole batch shares its cotangent once per example. The
# gradient of sin(a) + sum(a x) over a batch of three is then cos(a) too large, twice. JAX 0.12.0 raises instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
cd "$folder"
JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import jax
import jax.numpy as jnp

plain = lambda a, x: (jnp.sin(a), a * x)
custom = jax.custom_vjp(plain)
custom.defvjp(
    lambda a, x: (plain(a, x), (a, x)),
    lambda kept, ct: (ct[0] * jnp.cos(kept[0]) + ct[1] * kept[1], ct[1] * kept[0]),
)
batch = jnp.array([0.3, -0.7, 1.1])


def gradient(f):
    # sin(a) does not depend on the example: out_axes=None says that the batch shares it.
    mapped = jax.vmap(f, in_axes=(None, 0), out_axes=(None, 0))
    return float(jax.grad(lambda a: mapped(a, batch)[0] + mapped(a, batch)[1].sum())(0.5))


print("jax", jax.__version__, "plain", gradient(plain), "custom_vjp", gradient(custom))
wanted = float(jnp.cos(0.5) + batch.sum())
assert abs(gradient(plain) - wanted) < 1e-5
assert abs(gradient(custom) - (wanted + 2 * float(jnp.cos(0.5)))) < 1e-5, "the behaviour has changed"
PYTHON
