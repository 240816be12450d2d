"""Types of the public functions: each parameter and result says what it is, and none says Any."""

import inspect
import typing

import jax_mps as mps

MODULES = [mps, mps.nn, mps.optim, mps.losses, mps.config, mps.interop]


def functions_of(module):
    """The public functions of a module, and the methods of its classes, by name."""
    for name in getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]:
        value = getattr(module, name)
        if not getattr(value, "__module__", "").startswith("jax_mps"):
            continue
        if inspect.isclass(value):
            yield name, value
            for method, inner in vars(value).items():
                inner = getattr(inner, "__func__", getattr(inner, "fget", inner))
                if inspect.isfunction(inner) and (method in ("__init__", "__call__") or not method.startswith("_")):
                    yield f"{name}.{method}", inner
        elif inspect.isfunction(value):
            yield name, value


FUNCTIONS = {f"{module.__name__}.{name}": f for module in MODULES for name, f in functions_of(module)}


def says_any(hint):
    if hint is typing.Any:
        return True
    parts = hint if isinstance(hint, list | tuple) else typing.get_args(hint)
    return any(map(says_any, parts))


def missing(function):
    if inspect.isclass(function):
        return []
    hints = typing.get_type_hints(function)
    parameters = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]
    return [name for name in (*parameters, "return") if name not in hints]


def test_says_any():
    recursive = typing.Callable[[dict[str, typing.Any]], int]
    assert says_any(recursive) and says_any(tuple[int, typing.Any]) and not says_any(dict[str, int])


def test_every_parameter_and_result_has_a_type():
    assert len(FUNCTIONS) > 90
    assert not {name: left_out for name, f in FUNCTIONS.items() if (left_out := missing(f))}


def test_no_type_is_any():
    found = {
        f"{name}: {parameter}"
        for name, f in FUNCTIONS.items()
        for parameter, hint in typing.get_type_hints(f).items()
        if says_any(hint)
    }
    assert not found
    assert not [name for name in mps.nn.__all__ if says_any(getattr(mps.nn, name))]  # types among them


def test_choices_are_literals():
    def choices(function, name):
        return set(typing.get_args(typing.get_type_hints(function)[name]))

    assert choices(mps.conv, "accumulator") == {"float", "half"}
    assert choices(mps.gru, "reset") == {"before", "after"}
    assert choices(mps.losses.softmax_cross_entropy, "reduction") == {"none", "sum", "mean", "sum_by_nonzero_weights"}
    assert choices(mps.optim.sgd, "variant") == {"optax", "mps", "tensorflow"}


def test_names_of_neurons_are_those_of_the_table():
    from jax_mps._types import NeuronName
    from jax_mps.ops.neuron import _NEURONS

    assert set(typing.get_args(NeuronName)) == {*_NEURONS, "leaky_relu"}
