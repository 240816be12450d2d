"""The drawing of graphed functions: well-formed, complete, the same every time."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from itertools import pairwise

import jax
import jax.numpy as jnp
import pytest
from graph_common import normal

import jax_mps as mps
from jax_mps.drawing.layout import GAP, Box, Link, place, rows
from jax_mps.drawing.lifetimes import lives

SVG = "{http://www.w3.org/2000/svg}"


def step(params, x):
    def loss(params):
        for w in params["layers"]:
            x_ = jnp.tanh((x if w is params["layers"][0] else x_) @ w)  # noqa: F821
        return jnp.mean(mps.softmax(x_ * params["scale"]))

    value, gradients = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value


def programs(depth, **options):
    params = {"layers": [normal(16, 16, seed=i) for i in range(depth)], "scale": jnp.float32(2.0)}
    return mps.graph(step, **options).program(params, normal(8, 16))


def ids(root):
    return {e.get("id") for e in root.iter() if e.get("id")}


class TestDrawing:
    @pytest.mark.parametrize("depth, fuse", [(1, True), (3, False), (40, True)])
    def test_every_node_and_value_is_there(self, native, depth, fuse):
        found = programs(depth, fuse=fuse)
        root = xml.fromstring(found.svg())
        titles = [t.text for t in root.iter(f"{SVG}title")]
        for i, region in enumerate(found):
            assert {f"node-{i + 1}-{k}" for k in range(len(region.program.nodes))} <= ids(root)
            words = " ".join(titles)
            for node in region.program.nodes:
                assert str(node) in titles
                assert all(r.definition().split(" @")[0] in words for r in node.results)
            rectangles = sum(" @" in t and ", by " in t for t in titles)
            assert rectangles == sum(
                v.offset is not None for n in region.program.nodes for v in n.results if n.op != "reshape"
            )

    def test_inputs_and_results_have_their_names(self, native):
        words = " ".join(t.text for t in xml.fromstring(programs(2).svg()).iter(f"{SVG}text"))
        for name in ("params.layers.0", "params.scale", "x  f32[8,16]", "result.0.layers.1", "result.1"):
            assert name in words
        assert "without aliasing" in words and "peak" in words

    def test_it_is_the_same_every_time(self, native):
        assert programs(5).svg() == programs(5).svg()

    def test_text_is_escaped(self, native):
        def f(x):
            return {"<&\"'>\x00": mps.relu(x)}

        words = [t.text for t in xml.fromstring(mps.graph(f).program(normal(8)).svg()).iter(f"{SVG}text")]
        assert any("<&\"'>\ufffd" in (w or "") for w in words)

    def test_several_calls_and_none(self, native):
        def f(x):
            return mps.relu(jnp.sort(mps.relu(x)))

        assert {"call-1", "call-2", "arena-2"} <= ids(xml.fromstring(mps.graph(f).program(normal(8)).svg()))
        nothing = mps.graph(jnp.sin).program(normal(8))
        assert "no native call" in nothing.svg()
        assert nothing._repr_svg_() == nothing.svg()

    def test_files(self, native, tmp_path):
        programs(2).draw(tmp_path / "step.svg")
        xml.parse(tmp_path / "step.svg")
        with pytest.raises(ValueError, match=r"draw: path must end in \.svg, but got 'step\.png'\. Convert"):
            programs(2).draw("step.png")

    def test_abstract_and_static_arguments(self, native):
        def f(x, mode, *rest, scale=1.0, **more):
            return mps.relu(x) * scale if mode == "a" else x

        struct = jax.ShapeDtypeStruct((4,), jnp.float32)
        assert "x  f32[4]" in mps.graph(f).program(struct, "a", struct, scale=2.0, other=struct).svg()


class TestLayout:
    def test_boxes_do_not_overlap_and_links_go_down(self):
        pairs = [(i, [t for t in (i + 1, i + 2, 2 * i + 1, 7 * i + 3) if i < t < 60]) for i in range(60)]
        boxes = [Box(40.0 + 5 * (i % 7), 20.0 + i % 9, r) for i, r in enumerate(rows(60, pairs, [40.0] * 60, 300.0))]
        layout = place(boxes, [Link(i, 3.0, t) for i, t in pairs if t], 30.0)
        for a in boxes:
            for b in boxes:
                beside = a is b or a.row != b.row or abs(a.x - b.x) >= (a.width + b.width) / 2 + GAP - 1e-3
                assert beside
            assert a.x - a.width / 2 >= 0 and a.x + a.width / 2 <= layout.width + 1e-3
        for paths in layout.paths:
            for path in paths:
                assert all(lower[1] >= upper[1] for upper, lower in pairwise(path))

    def test_rows_are_below_their_sources_and_no_wider_than_they_may_be(self):
        found = rows(10, [(0, list(range(1, 10)))], [100.0] * 10, 300.0)
        assert found[0] == 0 and min(found[1:]) == 1
        assert max(found.count(r) for r in found) == 2


def test_lives_end_where_others_take_over(native):
    def f(x, w):
        for _ in range(3):
            x = jnp.sin(x @ w)
        return x

    found = lives(mps.graph(f).program(normal(64, 128), normal(128, 128))[0].program)
    for a in found:
        for b in found:
            same = a is not b and a.value.offset == b.value.offset
            assert not same or a.last <= b.first or b.last <= a.first
