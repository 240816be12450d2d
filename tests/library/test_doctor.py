"""The self-test covers every op, passes here, and fails when an op is wrong."""

from __future__ import annotations

import re

import jax.numpy as jnp
import numpy as np
import pytest
from process import python
from setting import METAL

from jax_mps.doctor import kernels, report, training
from jax_mps.primitive import OPS


def test_every_op_is_covered_and_right(device):
    lines = report.examine()
    assert [line.op for line in lines] == sorted(op.name for op in OPS.values())
    assert [line.op for line in lines if line.implementation == "no check runs it"] == []
    assert [line for line in lines if not line.ok] == []


@pytest.mark.parametrize("wrong", [lambda x: x + 1e-3, lambda x: x * jnp.nan], ids=["off by 1e-3", "NaN"])
def test_a_wrong_op_fails(native, wrong, monkeypatch, capsys):
    op = OPS["mps_bias_gradient"]
    meaning = op.meaning
    monkeypatch.setattr(report, "CHECKS", report.CHECKS[:1])
    monkeypatch.setattr(report, "OPS", {"mps_bias_gradient": op})
    assert report.main() == 0
    monkeypatch.setattr(op, "meaning", lambda dy: wrong(meaning(dy)))
    assert report.main() == 1
    printed = capsys.readouterr().out
    assert re.search(r"bias_gradient .*FAILED", printed) and "1 of 1 ops failed: bias_gradient" in printed


def test_an_op_without_a_check_fails(native, monkeypatch):
    monkeypatch.setattr(report, "CHECKS", ())
    lines = report.examine()
    assert len(lines) == len(OPS) and not any(line.ok for line in lines)
    assert np.isnan(lines[0].error)


@pytest.mark.parametrize("dtype", report.HALF_TOLERANCES)
def test_half_precision(native, monkeypatch, dtype):
    monkeypatch.setattr(report, "CHECKS", report.CHECKS[::12])
    lines = [line for line in report.examine(dtype) if line.implementation != "no check runs it"]
    assert lines and [line for line in lines if not line.ok] == []
    assert max(line.error for line in lines) > report.TOLERANCE  # it was half precision


def test_training(native, monkeypatch, capsys):
    quick = training.QUICK._replace(steps=3)
    monkeypatch.setattr(training, "QUICK", quick)
    assert training.main(quick=True) == []
    printed = capsys.readouterr().out
    assert re.search(r"^conv 2 +conv_weight_gradient +\S", printed, re.M) and "3 steps of 8 images" in printed
    monkeypatch.setattr(training, "TOLERANCE", -1)
    assert training.main(quick=True) == ["the training"]


@pytest.mark.skipif(not METAL, reason="JAX_MPS_DEVICE=metal asks for the Metal device")
def test_report_of_metal(monkeypatch, capsys):
    monkeypatch.setattr(report, "CHECKS", report.CHECKS[4:5])
    monkeypatch.setattr(report, "OPS", {name: OPS[name] for name in ("mps_dense", "mps_bias_gradient")})
    monkeypatch.setattr(training, "main", lambda quick: ["the training"] if quick else [])
    assert report.main(quick=True) == 1 and capsys.readouterr().out.endswith("FAILED: the training\n")
    assert report.main() == 0
    printed = capsys.readouterr().out
    assert re.search("^metal arrays +used in place", printed, re.M) and printed.endswith("everything passes\n")
    assert "in float16" in printed and "in bfloat16" in printed


def test_kernels_are_counted_by_op_and_dtype():
    rows = kernels.tally(
        [
            ("conv(f32[8,8] ) f32[8] ", "direct", "agrees", 0.1),
            ("conv(f32[8,8] ) f32[8] ", "tiles", "line 0: conv: Metal does not compile gemm: error: bfloat\nmore", 0.0),
            ("conv(f32[8,8] ) f32[8] ", "direct", "won", 0.1),
            ("conv(f32[9,9] ) f32[9] ", "tiles", "its numbers differ from those of direct", 0.2),
            ("conv(f32[9,9] ) f32[9] ", "direct", "agrees", 0.2),
            ("conv(f32[9,9] ) f32[9] ", "direct", "won before", 0.0),
            ("conv(f16[9,9] ) f16[9] ", "direct", "agrees", 0.2),
        ]
    )
    words = "line 0: conv: Metal does not compile gemm: error: bfloat"
    assert [tuple(row) for row in rows] == [
        ("conv", "f16", "direct", 1, 1, 1, 0, ""),
        ("conv", "f32", "direct", 2, 2, 2, 2, ""),
        ("conv", "f32", "tiles", 2, 1, 0, 0, words),
    ]
    assert words in str(rows[2])


@pytest.mark.slow
def test_command(tmp_path):
    command = "-m", "jax_mps", "doctor", "--device", "cpu"
    done = python(*command, "--report", cwd=tmp_path, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert (tmp_path / "jax_mps_doctor.txt").read_text() == done.stdout
    assert re.search(r"^device +cpu$", done.stdout, re.M) and re.search(r"^jaxlib +\d", done.stdout, re.M)
    assert f"all {len(OPS)} ops pass" in done.stdout
    unknown = python("-m", "jax_mps", "nurse", cwd=tmp_path, check=False)
    assert unknown.returncode == 2 and "invalid choice: 'nurse'" in unknown.stderr
