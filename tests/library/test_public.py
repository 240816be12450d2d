"""What a user's editor sees: the public names, types of arguments, and the marker that lets type checkers read them."""

import inspect
from pathlib import Path

import pytest

import jax_mps as mps

MODULES = [mps, mps.nn, mps.optim, mps.losses, mps.interop]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_dir_is_the_public_names(module):
    shown = [name for name in dir(module) if not name.startswith("__")]
    assert shown == sorted(module.__all__) and len(set(shown)) == len(shown)
    assert all(hasattr(module, name) for name in shown)
    assert not any(
        inspect.ismodule(getattr(module, n)) for n in shown if n not in ("config", "interop", "losses", "nn", "optim")
    )


def test_every_public_function_is_listed():
    made_here = {
        name
        for name, value in vars(mps).items()
        if getattr(value, "__module__", "").startswith("jax_mps") and not name.startswith("_") and callable(value)
    }
    assert made_here == {name for name in mps.__all__ if callable(getattr(mps, name))}


def test_types():
    assert (Path(mps.__file__).parent / "py.typed").exists()
    functions = [f for name in mps.__all__ if inspect.isfunction(f := getattr(mps, name))]
    functions.append(mps.losses.softmax_cross_entropy)
    untyped = [
        (f.__name__, p.name)
        for f in functions
        for p in inspect.signature(f).parameters.values()
        if p.annotation in (inspect.Parameter.empty, "Any")
        and p.kind is not p.VAR_POSITIONAL
        and p.kind is not p.VAR_KEYWORD
    ]
    assert len(functions) > 30 and not untyped
    assert inspect.signature(mps.conv).parameters["x"].annotation == "ArrayLike"
