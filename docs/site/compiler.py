"""Writes docs/compiler.md's stages: python docs/site/compiler.py, with jax_mps and Flax installed.

It compiles one training step under `JAX_MPS_DUMP`, and tells of each step that changed something what it left.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

import jax_mps as mps
from jax_mps.compiler import pipeline

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compiler.md"
BEGIN, END = "<!-- begin stages -->\n", "<!-- end stages -->\n"


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
    """What a step of the compiler left."""

    name: str
    words: str
    text: str


WORDS = {
    "jaxpr": "What JAX traces.",
    "flatten": "Calls are inlined, constants folded, what nobody reads is dropped.",
    "lower": "Each equation becomes nodes, which are still lax's own ops.",
    "plan_memory": "Each intermediate gets its offset in the arena, the largest first, each as low as it may lie.",
}


def _words(name: str) -> str:
    """What the list says of a step."""
    for step in (*pipeline.EQUATION_STEPS, *pipeline.WHOLE_PASSES, *pipeline.PROGRAM_PASSES):
        if step.name == name:
            return f"Its place: {step.place}."
    return WORDS[name]


def stages() -> list[Stage]:
    """The step after each step of the compiler that changed something."""
    x = jnp.zeros((2, 8, 8, 3), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    found: list[Stage] = []
    with tempfile.TemporaryDirectory() as folder, mps.set_device("cpu"):
        os.environ["JAX_MPS_DUMP"] = folder
        try:
            mps.graph(step).program(variables, x)
        finally:
            del os.environ["JAX_MPS_DUMP"]
        for file in sorted(Path(folder).glob("*/*.txt")):
            name, text = file.stem.partition("-")[2], file.read_text().rstrip()
            if not found or found[-1].text != text:
                found.append(Stage(name, _words(name), text))
    return found


def body() -> str:
    """The part of the page between its marks."""
    lines = [f"JAX {jax.__version__}, Flax {flax.__version__}.", ""]
    for i, stage in enumerate(stages()):
        lines += [f"### {i}. {stage.name}", "", stage.words, "", "```text", stage.text, "```", ""]
    return "\n".join(lines)


def page() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{body()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
