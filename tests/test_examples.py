"""The examples that train twice run, and their losses agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jax_mps

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name, library", [("flax_cnn", "flax"), ("equinox_resnet", "equinox")])
def test_trains_alike(name, library, tmp_path):
    for needed in (library, "sklearn", "tqdm"):
        pytest.importorskip(needed)
    package = os.path.dirname(os.path.dirname(jax_mps.__file__))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--steps=6", "--batch=8", "--width=4"]
    done = subprocess.run(
        [*command, "--draw", tmp_path / "step.svg"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "times as fast" in done.stdout
    assert (tmp_path / "step.svg").read_text().startswith("<svg")
