#!/usr/bin/env bash
# jax and jaxlib 0.12.0.1: compiled, an int32 array divided by itself is 1 everywhere, where the same two values as two
# arguments give -1 at a zero divisor, as op by op, and as both ways do with 0.10.2. Needs Python 3.12 and the package
# index.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for python in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python; do
  "$python" -c "import ensurepip" 2>/dev/null && break
done
"$python" -m venv "$folder/venv"
cd "$folder"
for version in 0.10.2 0.12.0.1; do
  venv/bin/pip install -q --disable-pip-version-check "jax==$version" "jaxlib==$version"
  JAX_PLATFORMS=cpu venv/bin/python - <<'PYTHON'
import jax
import jax.numpy as jnp
from jax import lax

x = jnp.array([0, 3, -2], jnp.int32)
op_by_op = lax.div(x, x).tolist()
by_itself = jax.jit(lambda x: lax.div(x, x))(x).tolist()
by_another = jax.jit(lax.div)(x, jnp.array(x)).tolist()
print("jax", jax.__version__, "op by op", op_by_op, "x / x compiled", by_itself, "x / y compiled", by_another)
assert op_by_op == by_another == [-1, 1, 1], "the behaviour has changed"
assert by_itself == ([1, 1, 1] if jax.__version__.startswith("0.12") else [-1, 1, 1]), "the behaviour has changed"
PYTHON
done
