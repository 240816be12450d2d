"""The examples that train twice run, and their losses agree."""

from __future__ import annotations

import pytest
from process import python
from setting import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("name, library", [("flax_cnn", "flax"), ("equinox_resnet", "equinox")])
def test_trains_alike(name, library, tmp_path):
    for needed in (library, "sklearn", "tqdm"):
        pytest.importorskip(needed)
    script = ROOT / "examples" / f"{name}.py"
    options = "--steps=6", "--batch=8", "--width=4", "--draw", tmp_path / "step.svg"
    done = python(script, *options, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert "times as fast" in done.stdout
    assert (tmp_path / "step.svg").read_text().startswith("<svg")
