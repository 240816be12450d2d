"""`python -m jax_mps run`: a script that knows nothing of jax_mps runs as by itself, but natively."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import jax_mps as mps

SCRIPT = """
import os, sys
if "wide" in sys.argv:
    os.environ["JAX_ENABLE_X64"] = "1"
assert "jax" not in sys.modules
import jax, jax.numpy as jnp
import helper
f = jax.jit(lambda x, w: jax.lax.conv(x, w, (1, 1), "SAME").sum())
x, w = jnp.ones((1, 8, 16, 16), "float32"), jnp.ones((8, 8, 3, 3), "float32")
print(float(f(x, w)), jnp.zeros(()).dtype, __name__, sys.argv[1:], os.path.basename(sys.argv[0]), helper.NAME)
import jax_mps
told = any(row.device == "cpu" for row in jax_mps.explain(f, x, w))
print("native" if jax_mps.cache_info().misses else "plain", told)
if "raise" in sys.argv:
    raise KeyError("of the script")
if "exit" in sys.argv:
    sys.exit(7)
if "interrupt" in sys.argv:
    raise KeyboardInterrupt
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "helper.py").write_text("NAME = 'beside it'")
    (tmp_path / "broken.py").write_text("x = = 1")
    return tmp_path


def run(folder, *arguments):
    """The finished process of `python -m jax_mps run`, started in a folder."""
    home = str(Path(mps.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": home, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jax_mps", "run", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


def test_a_script(folder, native):
    done = run(folder, "script.py", "a", "--b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "135424.0 float32 __main__ ['a', '--b'] script.py beside it",
        "native True",
    ]


def test_a_module_and_what_the_script_tells_jax(folder, native):
    done = run(folder, "-m", "script", "wide", "exit")
    assert done.returncode == 7 and not done.stderr
    assert done.stdout.startswith("135424.0 float64 __main__ ['wide', 'exit'] script.py beside it")


def test_errors_begin_in_the_script(folder, native):
    done = run(folder, "script.py", "raise")
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and lines[0] == "Traceback (most recent call last):"
    assert "script.py" in lines[1] and lines[-1] == "KeyError: 'of the script'" and "_run.py" not in done.stderr
    done = run(folder, "script.py", "interrupt")
    assert done.returncode == 130 and done.stderr.splitlines()[-1] == "KeyboardInterrupt"
    done = run(folder, "broken.py")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("SyntaxError")


def test_errors_of_the_command_line(tmp_path):
    assert "run: the script must exist, but there is no 'none.py'. usage:" in run(tmp_path, "none.py").stderr
    done = run(tmp_path)
    assert done.returncode == 2 and "run: a script, or -m and a module, must follow. usage:" in done.stderr
    done = run(tmp_path, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m jax_mps run script.py")
