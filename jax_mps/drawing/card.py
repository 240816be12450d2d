"""What a drawing says of a node: its family and colour, its title, its attributes in a few words, a chain's steps."""

from __future__ import annotations

from typing import Any

from jax_mps.ir.program import Node

# The families of ops: a name, a colour, the beginnings of their ops' names. The first that fits is taken.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "convolution": ("#2f6fb3", ("conv",)),
    "product": ("#7556b8", ("dot", "dense", "linear")),
    "pooling": ("#178a8a", ("max_pool", "avg_pool", "l2_pool", "pool")),
    "normalisation, softmax, loss": (
        "#c47a12",
        (
            "batch_norm",
            "instance_norm",
            "group_norm",
            "layer_norm",
            "norm",
            "softmax",
            "log_softmax",
            "loss",
            "sigmoid_",
        ),
    ),
    "recurrence, loop": ("#b0478d", ("lstm", "gru", "mgu", "rnn", "loop", "scan", "while")),
    "update of state": ("#3d8b4f", ("sgd", "adam", "rmsprop", "optim", "update")),
    "elementwise": ("#5d6f85", ("chain", "neuron", "prelu", "dropout", "reduce")),
    "moving": ("#98a1ad", ()),
}
_SIGNS = {"add": "+", "sub": "\u2212", "mul": "\u00d7", "div": "\u00f7"}
_SHORT = {"integer_pow": "pow", "shift_right_logical": "shift", "is_finite": "finite?"}
_COMPARE = {"eq": "=", "ne": "≠", "lt": "<", "le": "≤", "gt": ">", "ge": "≥"}
_DEFAULTS: dict[str, Any] = {"accumulator": "float", "groups": 1, "neuron": None}
_SHOWN_STEPS = 11


def family(node: Node, updates: bool) -> str:
    """The family of a node; `updates` says whether its results take the place of the program's inputs."""
    if updates and node.op == "chain":
        return "update of state"
    for name, (_, beginnings) in FAMILIES.items():
        if node.op.startswith(beginnings) and beginnings:
            return name
    return "moving"


def title(node: Node) -> str:
    """The op's name as a person reads it."""
    if node.op != "chain":
        return node.op.replace("_", " ")
    sums = {o[0] for o in node.attributes["outputs"]} - {"store"}
    return "chain" + (" with " + ", ".join(sorted(sums)) if sums else "")


def details(node: Node) -> list[str]:
    """One or two lines about a node: a chain's steps, or the attributes that are not the usual ones."""
    if node.op == "chain":
        return _wrapped(steps(node))
    words = []
    for key, value in node.attributes.items():
        ones = isinstance(value, tuple) and all(v == 1 for v in value)
        zero = isinstance(value, tuple) and all(v in (0, (0, 0), (0, 0, 0)) for v in value)
        usual = value is None or _DEFAULTS.get(key) == value or (key in ("strides", "dilation") and ones)
        if usual or (key == "padding" and zero) or (key == "start" and zero) or (key == "batch" and value == ((), ())):
            continue
        shown = _shown(key, value)
        words.append(f"{key} {shown if len(shown) <= 34 else shown[:33] + '…'}")
    return _wrapped(words)[:3]


def steps(node: Node) -> list[str]:
    """A chain's instructions, the constants written into those that read them."""
    count = len(node.operands)
    constants: dict[int, str] = {}
    found = []
    for i, line in enumerate(node.attributes["code"]):
        word, *rest = line.split(" ")
        if word.startswith("const"):
            constants[count + i] = _constant(rest[0])
            continue
        numbers = [int(r) for r in rest] if word != "integer_pow" else [int(rest[0])]
        known = [constants[n] for n in numbers if n in constants]
        name = _SIGNS.get(word) or _COMPARE.get(word) or _SHORT.get(word, word.replace("_", " "))
        if word == "integer_pow":
            found.append("square" if rest[1] == "2" else f"pow {rest[1]}")
        elif known and numbers and numbers[0] in constants and word in ("sub", "div"):
            found.append(f"{known[0]} {name}")
        elif word in ("select", "clamp"):
            found.append(name)
        else:
            found.append(" ".join([name, *known]))
    for kind, _, *axes in node.attributes["outputs"]:
        if kind != "store":
            found.append(f"{'Σ' if kind == 'sum' else kind} over {','.join(map(str, axes[0])) or 'all'}")
    if not found:
        found = ["fill " + ", ".join(constants.values())] if constants else ["copy"]
    if len(found) <= _SHOWN_STEPS:
        return found
    cut = found[: _SHOWN_STEPS - 1]
    return [*cut, f"… {len(found) - len(cut)} more"]


def _shown(key: str, value: Any) -> str:
    flat = isinstance(value, tuple) and value and all(isinstance(v, int) for v in value)
    if flat and key in ("strides", "dilation") and len(set(value)) == 1:
        return str(value[0])
    if flat and key in ("window", "spatial"):
        return "\u00d7".join(map(str, value))
    if isinstance(value, tuple) and all(isinstance(v, tuple) and v for v in value):
        if len({n for pair in value for n in pair}) == 1 and key == "padding":
            return str(value[0][0])
        return " | ".join(",".join(map(str, v)) for v in value)
    return str(value).replace(" ", "").replace(",)", ")").strip("'")


def _constant(word: str) -> str:
    try:
        return f"{float(word):.4g}"
    except ValueError:
        return word


def _wrapped(words: list[str], most: int = 38) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 3 <= most:
            lines[-1] += " · " + word
        else:
            lines.append(word)
    return lines
