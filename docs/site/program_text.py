"""Writes docs/program.md's tables: python docs/site/program_text.py, with jax_mps installed.

Ops come from the checkers (cc/ir/check_*.cc), types and attributes from the nodes that the tests keep of each op,
dtypes from the CPU device, which is asked, and instructions from their table. Written here by hand is what each op
computes and how its operands and results are called; the names must be as many as the values of the tests' node.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from jax_mps import _ext

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "program.md"
BEGIN, END = "<!-- begin {} -->\n", "<!-- end {} -->\n"

# By checker file: title, then (op, operands -> results, what it computes). A name with a dtype keeps it; one in
# brackets may be left out, also by the tests' node.
FAMILIES: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "conv": (
        "Convolutions",
        [
            ("conv", "x, w [, b] -> y", "neuron(x * w + b); x and y are [batch, spatial..., channels], w HWIO"),
            ("conv_data_gradient", "dy, w -> dx", "the gradient of x"),
            ("conv_weight_gradient", "x, dy -> dw", "the gradient of w"),
        ],
    ),
    "product": (
        "Products",
        [
            ("dense", "x, w [, b] -> y", "neuron(x w + b) of matrices"),
            ("dense_data_gradient", "dy, w -> dx", "the gradient of x"),
            ("dense_weight_gradient", "x, dy -> dw", "the gradient of w"),
            ("dot", "left, right -> y", "lax.dot_general; axes of y: batch, left's others, right's others"),
            ("bias_gradient", "dy -> db", "the sum over all axes but the last"),
        ],
    ),
    "pool": (
        "Pools",
        [
            ("max_pool", "x -> y", "the largest number of each window"),
            ("max_pool_taps", "x -> y, taps:u8", "the same, and its argmax position in the window; u8, or s32"),
            ("max_pool_gradient", "dy, taps:u8 -> dx", "the gradient of x"),
            ("max_pool_pick", "x, taps:s32 -> y", "the numbers at these argmax positions"),
            ("avg_pool", "x -> y", "the mean of each window"),
            ("avg_pool_gradient", "dy -> dx", "the gradient of x"),
            ("l2_pool", "x -> y", "the root of the sum of squares of each window"),
            ("l2_pool_gradient", "dy, x, y -> dx", "the gradient of x"),
        ],
    ),
    "norm": (
        "Batch normalisation",
        [
            (
                "batch_norm",
                "x, gamma, beta -> y, mean:f32, variance:f32",
                "neuron(batch norm) by the batch's statistics",
            ),
            (
                "batch_norm_gradient",
                "dy, dmean:f32, dvariance:f32, x, gamma, beta, mean:f32, variance:f32 -> dx, dgamma:f32, dbeta:f32",
                "its gradients",
            ),
            (
                "batch_norm_inference",
                "x, mean, variance, gamma, beta -> y",
                "neuron(batch norm) by the statistics given",
            ),
            (
                "batch_norm_inference_gradient",
                "dy, x, mean, variance, gamma, beta -> dx, dgamma:f32, dbeta:f32",
                "its gradients",
            ),
        ],
    ),
    "neuron": (
        "Neurons",
        [
            ("neuron", "x -> y", "f(x)"),
            ("neuron_gradient", "dy, x -> dx", "dy f'(x); for relu y serves as x"),
            ("prelu", "x, slopes -> y", "x, or its channel's slope times x where x <= 0"),
            ("prelu_gradient", "dy, x, slopes -> dx, dslopes", "its gradients"),
        ],
    ),
    "softmax": (
        "Softmax and cross-entropy",
        [
            ("softmax", "x -> y", "over the last axis"),
            ("log_softmax", "x -> y", "over the last axis"),
            ("softmax_gradient", "dy, y -> dx", "the gradient of x"),
            ("log_softmax_gradient", "dy, y -> dx", "the gradient of x"),
            (
                "softmax_cross_entropy",
                "logits, labels:s32 -> loss:f32, maximum:f32, log_sum:f32",
                "the loss of each row; labels are classes, or floating like logits",
            ),
            (
                "softmax_cross_entropy_gradient",
                "dloss:f32, logits, labels, maximum:f32, log_sum:f32 -> dlogits",
                "the gradient of logits",
            ),
        ],
    ),
    "dropout": (
        "Random numbers",
        [
            ("dropout", "x, key:u32 -> y", "x / keep_probability where the key's mask is set, else 0"),
            ("random_bits", "key:u32 -> bits:u32", "the bits of a JAX key"),
        ],
    ),
    "optim": (
        "Optimizers",
        [
            ("sgd", "hyperparameters:f32, gradients..., trace... -> updates..., trace...", "one step of all leaves"),
            (
                "rmsprop",
                "hyperparameters:f32, gradients..., parameters..., nu... -> parameters..., nu...",
                "one step of all leaves",
            ),
            (
                "adam",
                "hyperparameters:f32, gradients..., parameters..., mu..., nu... -> parameters..., mu..., nu...",
                "one step of all leaves",
            ),
        ],
    ),
    "recurrent": ("Recurrent layers", []),  # below
    "shape_ops": (
        "Moving and naming",
        [
            ("pad", "x, value -> y", "lax.pad; padding may be negative"),
            ("concatenate", "x... -> y", "along an axis"),
            ("pick", "x, index:s32 -> y", "one element of each row (a gather of labels)"),
            ("pick_gradient", "dy, index:s32 -> dx", "the gradient of x"),
            ("reshape", "x -> y", "another shape of the same memory"),
            ("part", "x -> y", "a view of the same memory, from element `start` on"),
        ],
    ),
    "cumulative": (
        "Cumulative ops",
        [("cumulative", "x -> y", "a running sum, product, maximum or minimum along an axis")],
    ),
    "chain": ("Fused elementwise code", [("chain", "x... -> y...", "a fused kernel; see below")]),
    "loop": ("Loops", [("loop", "consts..., carry..., xs... -> carry..., ys...", "lax.scan of the node's body")]),
}


def _recurrent() -> list[tuple[str, str, str]]:
    rows = []
    for cell, states, extra in (
        ("lstm", ["h", "c"], "peephole"),
        ("gru", ["h"], "recurrent_bias or memory"),
        ("mgu", ["h"], ""),
        ("rnn", ["h"], ""),
    ):
        first, last = [f"{s}0" for s in states], [f"{s}_last" for s in states]
        operands = ["x", "lengths:s32", *first, "w", "r", "b"]
        optional = f" [, {extra}]" if extra else ""
        kept = ["cells:f32"] * (len(states) - 1) + ["gates:f32"]
        given = ", ".join(operands) + optional
        rows.append((cell, f"{given} -> {', '.join(['y', *last])}", "a whole sequence"))
        rows.append((f"{cell}_training", f"{given} -> {', '.join(['y', *last, *kept])}", "and what the gradient needs"))
        before, after = ["dy", *(f"d{s}" for s in states)], ["y", *kept]
        results = ", ".join(f"d{n.partition(':')[0]}" for n in operands if not n.startswith("lengths"))
        rows.append(
            (
                f"{cell}_gradient",
                f"{', '.join(before)}, {given}, {', '.join(after)} -> {results}",
                "the gradients that are wanted",
            )
        )
    return rows


FAMILIES["recurrent"] = ("Recurrent layers", _recurrent())


def checked_ops() -> dict[str, list[str]]:
    """The ops that each checker file registers, by family."""
    found = {}
    for path in sorted((ROOT / "cc" / "ir").glob("check_*.cc")):
        ops = re.findall(r'const Checker \w+\("(\w+)"', path.read_text())
        if ops:
            found[path.stem.removeprefix("check_")] = ops
    return found


def nodes() -> ModuleType:
    """The tests' nodes."""
    (path,) = (ROOT / "tests").rglob("program_nodes.py")
    spec = importlib.util.spec_from_file_location("program_nodes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sides(signature: str) -> tuple[list[str], list[str]]:
    operands, _, results = signature.partition(" -> ")
    operands = re.sub(r" \[, [^\]]*\]", "", operands)
    return operands.split(", "), results.split(", ")


def _names(op: str, names: list[str], count: int) -> list[str]:
    """A name for each value; names with dots stand for as many as there are."""
    many = [name for name in names if name.endswith("...")]
    if not many:
        if len(names) != count:
            raise SystemExit(f"{op}: {names} are no {count} values")
        return names
    each = (count - (len(names) - len(many))) // len(many)
    return [name for n in names for name in [n] * (each if n in many else 1)]


def dtypes(op: str, signature: str, node: tuple) -> str:
    """The dtypes that the CPU device runs the tests' node in, where its values have no dtype of their own."""
    text_of = nodes().text_of
    _, operands, results, attributes = node
    names = [_names(op, s, len(v)) for s, v in zip(_sides(signature), (operands, results), strict=True)]
    runs = []
    for dtype in ("f32", "bf16", "f16", "s32", "u32", "u8", "pred"):
        typed = [
            [t if ":" in name else re.sub(r"^\w+", dtype, t) for name, t in zip(n, v, strict=True)]
            for n, v in zip(names, (operands, results), strict=True)
        ]
        try:
            _ext.implementations(text_of(op, *typed, attributes))
        except ValueError:
            continue
        runs.append(dtype)
    if all(":" in name for side in names for name in side):
        return ", ".join(sorted({name.partition(":")[2] for side in names for name in side}))
    return ", ".join(runs)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return "list"


KINDS = {"count": "integer", "integer": "integer", "integers": "list", "list": "list", "boolean": "bool"}
KINDS |= {
    "number": "number",
    "numbers": "list",
    "string": "string",
    "has": "string",
    "says": "string",
    "require_sizes": "list",
}


def _reads(family: str) -> dict[str, str]:
    """The attributes that a checker reads by name, and their kinds."""
    paths = [ROOT / "cc" / "ir" / f"check_{family}.cc"]
    paths += [path for path in [ROOT / "cc" / "ir" / f"{family}.cc"] if path.exists()]
    text = "".join(path.read_text() for path in paths)
    found = re.findall(
        r'\b(count|boolean|integers?|numbers?|string|list|has|says|require_sizes)\((?:node, )?"(\w+)"', text
    )
    for names in re.findall(r"for \(const char\* name : \{([^}]*)\}", text):
        found += [("has", name) for name in re.findall(r'"(\w+)"', names)]
    kinds: dict[str, str] = {}
    for method, name in found:
        kinds[name] = KINDS[method] if method != "has" else kinds.get(name, KINDS[method])
    return kinds


def tables() -> str:
    """A table for each checker file."""
    module = nodes()
    examples = {node[0]: node for node in module.NODES}
    lines: list[str] = []
    for family, ops in checked_ops().items():
        title, rows = FAMILIES[family]
        if missing := set(ops) ^ {name for name, _, _ in rows}:
            raise SystemExit(f"cc/ir/check_{family}.cc and this script disagree about {', '.join(sorted(missing))}")
        lines += [f"### {title}", "", "| node | computes | attributes | dtypes |", "|---|---|---|---|"]
        shown: set[str] = set()
        for op, signature, words in rows:
            node = examples.get(op)
            given = {k: _kind(v) for k, v in node[3].items()} if node else _reads(family)
            shown |= set(given)
            attributes = ", ".join(f"`{name}` ({kind})" for name, kind in sorted(given.items())) or "-"
            types = dtypes(op, signature, node) if node else "any"
            operands, results = (re.sub(r":(\w+)", r": \1", side) for side in signature.split(" -> "))
            lines.append(f"| `{op}({operands})` -> `{results}` | {words} | {attributes} | {types} |")
        if others := {name: kind for name, kind in sorted(_reads(family).items()) if name not in shown}:
            given = ", ".join(f"`{name}` ({kind})" for name, kind in others.items())
            lines += ["", f"Attributes that may be left out: {given}."]
        lines.append("")
    return "\n".join(lines)


def instructions() -> str:
    """The instructions of chains, with their operands and what these may be."""
    lines = ["| instruction | operands | types |", "|---|---|---|"]
    lines += [f"| `{name}` | {count} | {RULES[rule]} |" for name, count, rule in instruction_rows()]
    return "\n".join(lines) + "\n"


RULES = {
    "number": "f32, s32, u32; gives the same",
    "real": "f32; gives f32",
    "has_sign": "f32, s32; gives the same",
    "compare": "any; gives pred",
    "logic": "s32, u32, pred; gives the same",
    "integer": "s32, u32; gives the same",
    "finite": "f32; gives pred",
    "select": "pred, then two of a type; gives that type",
    "to_f32": "any; gives f32",
    "to_s32": "any; gives s32",
    "to_u32": "any; gives u32",
    "to_pred": "any; gives pred",
}


def instruction_rows() -> list[tuple[str, str, str]]:
    """(name, operands, rule) of each instruction."""
    text = (ROOT / "cc" / "chain" / "instructions.def").read_text()
    return re.findall(r'^JAX_MPS_INSTRUCTION\(\w+, "(\w+)", (\d), (\w+),', text, re.MULTILINE)


def replaced(page: str, name: str, text: str) -> str:
    """The page with the part between the marks of this name changed."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if end not in rest:
        raise SystemExit(f"{PAGE} has no marks for {name}")
    return f"{before}{begin}\n{text}\n{end}{after}"


def page() -> str:
    """The page as it should be."""
    text = replaced(PAGE.read_text(), "nodes", tables())
    return replaced(text, "instructions", instructions())


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
