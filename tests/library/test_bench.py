"""`python -m jax_mps bench` finds the benchmarks of a checkout, and says so where there is none."""

import sys

from process import python
from setting import ROOT

from jax_mps import __main__ as command


def test_runs_those_of_the_checkout():
    told = python("-m", "jax_mps", "bench", "--help", cwd=ROOT).stdout
    assert "--only {conv,pool," in told and "ratios" in told
    unknown = python("-m", "jax_mps", "bench", "--only", "marathon", cwd=ROOT, check=False)
    assert unknown.returncode == 2 and "invalid choice: 'marathon'" in unknown.stderr


def test_needs_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "jax_mps" / "__main__.py"))
    monkeypatch.setattr(sys, "argv", ["jax_mps", "bench"])
    monkeypatch.chdir(tmp_path)
    assert command.main() == 2
    words = "bench: the current folder must be a checkout of jax_mps, with tests/bench, but is"
    assert words in capsys.readouterr().out
