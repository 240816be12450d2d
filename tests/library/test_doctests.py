"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import jax_mps

MODULES = sorted(m.name for m in pkgutil.walk_packages(jax_mps.__path__, "jax_mps.") if not m.name.endswith("__main__"))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failures == 0


def test_every_public_function_has_an_example():
    public = [getattr(jax_mps, n) for n in dir(jax_mps) if not n.startswith("_")]
    functions = [f for f in public if callable(f) and getattr(f, "__module__", "").startswith("jax_mps.ops")]
    named_after_the_table = {"jax_mps.ops.neuron"}  # one function a row of `neuron`'s table
    without = [f.__name__ for f in functions if ">>>" not in f.__doc__ and f.__module__ not in named_after_the_table]
    assert functions and not without
