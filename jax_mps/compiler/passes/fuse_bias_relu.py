"""Convolutions and dense products take over the bias and the relu that follow them.

::

    conv(x, w) ── add ──┬── max 0 ──> y              conv(x, w, b) {relu} ──┬──> y
            bias ──┘    └── gt 0 ──> mask    =>                             └── gt 0 ──> mask

The value before the relu disappears: relu's derivative asks for its sign alone, which the result has too. It stays,
with the bias in it, where anything else reads it. In float32 only: half precision would round once rather than twice.
"""

from __future__ import annotations

from collections import Counter

from jax_mps.compiler.passes.rewriter import Rewriter
from jax_mps.compiler.passes.views import View
from jax_mps.ir.ops import VIEWS
from jax_mps.ir.program import Node, Program, Type, Value

_RELU = ("relu", 0.0, 0.0, 0.0)
_SMALL_PRODUCT = 1 << 15  # multiply-adds below which a product has a faster kernel without a bias


def fuse_bias_relu(program: Program) -> Program:
    """Rewrites each convolution and product that a bias or a relu follows."""
    return _Neurons(program).run()


class _Neurons(Rewriter):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.returned = Counter(program.outputs)
        self.dropped: set[Node] = set()  # nodes that become part of another
        self.instead: dict[Node, list[Node]] = {}  # of a node: what stands in its place

    def run(self) -> Program:
        """The whole rewriting."""
        for node in self.program.nodes:
            if _takes_bias(node) and node.results[0].type.dtype == "f32":
                self._take(node)
        nodes = [
            new for node in self.program.nodes if node not in self.dropped for new in self.instead.get(node, [node])
        ]
        return Program(self.program.inputs, nodes, self.program.outputs)

    def _take(self, node: Node) -> None:
        y = node.results[0]
        last, bias = node, None
        add = self._only_reader(y, "add")
        if add is not None:
            bias = self._bias(next((o for o in add.operands if o is not y), y), y.type.shape)
            if bias is not None:
                last, y = add, add.results[0]
        relu, masks = self._relu(y)
        if relu is not None:
            for mask in masks:
                mask.operands = [relu.results[0] if o is y else o for o in mask.operands]
            last, y = relu, relu.results[0]
        if last is not node:
            self.dropped.add(node)
            if add is not None and bias is not None and add is not last:
                self.dropped.add(add)
            self.instead[last] = self._made(node, bias, relu is not None, y)

    def _only_reader(self, value: Value, op: str) -> Node | None:
        readers = self.readers.get(value, [])
        alone = len(readers) == 1 and not self.returned[value]
        return readers[0] if alone and readers[0].op == op else None

    def _relu(self, value: Value) -> tuple[Node | None, list[Node]]:
        """The relu of a value and the comparisons with zero that are its derivative's, if nothing else reads it."""
        readers = self.readers.get(value, [])
        relus = [n for n in readers if n.op == "max" and any(self._is_zero(o) for o in n.operands)]
        masks = [n for n in readers if self._asks_whether_positive(n, value)]
        if len(relus) != 1 or len(relus) + len(masks) != len(readers) or self.returned[value]:
            return None, []
        order = {n: i for i, n in enumerate(self.program.nodes)}
        if any(order[m] < order[relus[0]] for m in masks):  # would read it before it is there
            return None, []
        return relus[0], masks

    def _asks_whether_positive(self, node: Node, value: Value) -> bool:
        if node.op not in ("gt", "lt", "le", "ge") or len(node.operands) != 2:
            return False
        left, right = node.operands
        if node.op in ("gt", "le"):  # value > 0, value <= 0
            return left is value and self._is_zero(right)
        return right is value and self._is_zero(left)  # 0 < value, 0 >= value

    def _is_zero(self, value: Value) -> bool:
        return bool(self.number_of(value) == 0)

    def _bias(self, value: Value, shape: tuple[int, ...]) -> Value | None:
        """The vector that `value` repeats along all axes of `shape` but the last."""
        views: list[Node] = []
        base = value
        while (node := self.producer.get(base)) is not None and node.op in VIEWS:
            views.append(node)
            base = node.operands[0]
        view: View | None = View.whole(base)
        for node in reversed(views):
            view = view.through(node) if view is not None else None
        if view is None or view.shape != shape or view.offset or base.type.elements != shape[-1]:
            return None
        repeats = all(stride == 0 or n == 1 for stride, n in zip(view.strides[:-1], shape[:-1], strict=True))
        consecutive = view.strides[-1] == 1 or shape[-1] == 1
        producer = self.producer.get(base)
        constant = producer is not None and producer.op == "constant"
        return base if repeats and consecutive and not constant and base.type.dtype == "f32" else None

    def _reshaped(self, nodes: list[Node], value: Value, shape: tuple[int, ...]) -> Value:
        if value.type.shape == shape:
            return value
        nodes.append(Node("reshape", [value], [self.value(Type(value.type.dtype, shape))], {}))
        return nodes[-1].results[0]

    def _made(self, node: Node, bias: Value | None, relu: bool, y: Value) -> list[Node]:
        """The nodes that compute `y` in one kernel."""
        nodes: list[Node] = []
        x, w = node.operands
        operands = [x, w] if bias is None else [x, w, self._reshaped(nodes, bias, (y.type.shape[-1],))]
        neuron = {"neuron": _RELU if relu else None}
        if node.op == "conv":
            return [*nodes, Node("conv", operands, [y], {**node.attributes, **neuron})]
        rows = x.type.elements // x.type.shape[-1]
        operands[0] = self._reshaped(nodes, x, (rows, x.type.shape[-1]))
        if len(y.type.shape) == 2:
            return [*nodes, Node("dense", operands, [y], neuron)]
        flat = self.value(Type("f32", (rows, y.type.shape[-1])))
        return [*nodes, Node("dense", operands, [flat], neuron), Node("reshape", [flat], [y], {})]


def _takes_bias(node: Node) -> bool:
    """Whether a node is a convolution without bias and neuron, or the product of rows with a matrix."""
    if node.op == "conv":
        return len(node.operands) == 2 and node.attributes.get("neuron") is None
    if node.op != "dot" or node.attributes["batch"] != ((), ()):
        return False
    x, w = (o.type for o in node.operands)
    if len(x.shape) < 2 or len(w.shape) != 2 or node.attributes["contract"] != ((len(x.shape) - 1,), (0,)):
        return False
    return x.dtype == w.dtype == "f32" and node.results[0].type.elements * x.shape[-1] > _SMALL_PRODUCT
