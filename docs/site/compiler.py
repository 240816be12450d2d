"""Writes docs/compiler.md's stages: python docs/site/compiler.py, with jax_mps and Flax installed.

It compiles one training step and looks at what each function that compiler/pipeline.py calls gives back: the equations
where it gives none, else the text of the program. The passes are so found in the order in which they run, whatever they
are; what each is for comes from its docstring.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

import jax_mps as mps
from jax_mps.ir.program import Program

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compiler.md"
BEGIN, END = "<!-- begin stages -->\n", "<!-- end stages -->\n"
PIPELINE = "jax_mps.compiler.pipeline"


class Layer(nn.Module):
    """A convolution, a batch norm and a relu."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """y."""
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        return nn.relu(nn.BatchNorm(use_running_average=False)(x))


net = Layer()


def step(variables: Any, x: Any) -> Any:
    """The parameters after a step of gradient descent, and the moved statistics."""

    def loss(params: Any) -> Any:
        y, moved = net.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.mean(y * y), moved

    gradients, moved = jax.grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradients)
    return {"params": params, **moved}


class Stage(NamedTuple):
    """What a function of the compiler left."""

    name: str
    module: str
    words: str  # the first line of its docstring
    text: str


def _short(type_: Any) -> str:
    return type_.str_short(short_dtypes=True)


def _equations(flat: Any) -> str:
    lines = []
    for equation in flat.equations:
        types = (", ".join(_short(v.aval) for v in side) for side in (equation.operands, equation.results))
        operands, results = types
        lines.append(f"{equation.name}: {operands} -> {results}")
    return "\n".join(lines)


class Recorder:
    """Looks at each call that the pipeline makes."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """Called by Python around each call."""
        module, caller = frame.f_globals.get("__name__", ""), frame.f_back
        if event not in ("call", "return") or caller is None or caller.f_globals.get("__name__") != PIPELINE:
            return
        if not module.startswith("jax_mps.compiler.") or module == PIPELINE:
            return
        name, values = frame.f_code.co_name, list(frame.f_locals.values())
        given = values[0] if values else None
        if event == "call":
            if isinstance(given, Program) and not any("input" in stage.text for stage in self.stages):
                self._add("lower", "jax_mps.compiler.lower", "Each equation becomes nodes.", given.text())
            return
        function = frame.f_globals.get(name)
        words = (getattr(function, "__doc__", None) or "").strip().split("\n")[0]
        if isinstance(result, Program):
            self._add(name, module, words, result.text())
        elif isinstance(given, Program):
            self._add(name, module, words, given.text())
        elif hasattr(given, "equations") and hasattr(given, "inputs"):
            self._add(name, module, words, _equations(given))
        elif hasattr(result, "equations") and hasattr(result, "inputs"):
            self._add(name, module, words, _equations(result))

    def _add(self, name: str, module: str, words: str, text: str) -> None:
        if text and (not self.stages or self.stages[-1].text != text):
            self.stages.append(Stage(name, module, words, text))


def stages() -> tuple[str, list[Stage]]:
    """The step's jaxpr, and what each stage leaves where it changes something."""
    x = jnp.zeros((2, 8, 8, 3), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    with mps.set_device("cpu"):
        jaxpr = str(jax.make_jaxpr(step)(variables, x))
        recorder = Recorder()
        sys.setprofile(recorder)
        try:
            mps.graph(step).program(variables, x)
        finally:
            sys.setprofile(None)
    return jaxpr, recorder.stages


def body() -> str:
    """The part of the page between its marks."""
    jaxpr, found = stages()
    lines = [f"JAX {jax.__version__}, Flax {flax.__version__}.", "", "### The jaxpr", ""]
    lines += ["What JAX traces.", "", "```text", jaxpr, "```", ""]
    for i, stage in enumerate(found):
        lines += [f"### {i + 1}. {stage.name}", "", f"`{stage.module}`. {stage.words}", ""]
        lines += ["```text", stage.text, "```", ""]
    return "\n".join(lines)


def page() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{body()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
