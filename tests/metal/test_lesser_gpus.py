"""GPUs that lack something, or whose compiler is wrong: kernels are left out with a reason, and others serve.

Runs under tests/metal_sim/run; elsewhere there is no simulator and the module skips itself.
"""

import os
import subprocess
import sys

import pytest
from metal_processes import process
from setting import ROOT

pytestmark = pytest.mark.skipif(
    not os.environ.get("METAL_SIM_BUILD"), reason="needs the rig: tests/metal_sim/run python -m pytest"
)
# Kernels are compared at first use, as on a Mac; of ours alone.
CHECKED = {"JAX_MPS_AUTOTUNE": None, "JAX_MPS_APPLE_KERNELS": "0"}

# Each op's row of explain, and how far its value is from its meaning in float64.
OPS = """
from jax_mps.doctor.report import findings
random = lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
CASES = dict(
    bias_gradient=(lambda x, w, b: mps.dense(x, w, b), (40, 3), (3, 5), (5,)),
    dense=(mps.dense, (20, 30), (30, 9)),
    conv=(lambda x, w: mps.conv(x, w, groups=2), (2, 6, 6, 4), (3, 3, 2, 6)),
    max_pool=(lambda x: mps.max_pool(x, 3, strides=2), (2, 7, 8, 3)),
    batch_norm=(lambda x, g, b: mps.batch_norm(x, g, b, epsilon=1e-3, neuron="relu"), (4, 5, 6, 3), (3,), (3,)),
    softmax=(mps.softmax, (5, 40)),
    loss=(lambda x: mps.losses.softmax_cross_entropy(x, jnp.arange(5, dtype=jnp.int32)), (5, 40)),
    dropout=(lambda x: mps.dropout(x, jax.random.key(0), keep_probability=0.7), (6, 50)),
    lstm=(lambda x, w, r, b: mps.lstm(x, 0.2 * w, 0.2 * r, b), (3, 6, 5), (5, 64), (16, 64), (64,)),
    peephole=(lambda x, w, r, b, p: mps.lstm(x, 0.2 * w, 0.2 * r, b, peephole=p)[0],
              (3, 6, 5), (5, 64), (16, 64), (64,), (3, 16, 16)),
    gru=(lambda x, w, r, b: mps.gru(x, 0.2 * w, 0.2 * r, b), (3, 6, 5), (5, 48), (16, 48), (48,)),
)
def rows(*names):
    found = {}
    for name in names:
        function, *shapes = CASES[name]
        for f in findings(function, [random(i, *shape) for i, shape in enumerate(shapes)]):
            found[f"{name}: {f.op}"] = ["metal" if f.native else "xla", f.implementation, f.error]
    return found
def chains():
    f = mps.graph(lambda x: (jnp.sum(x * 2.0, 1), jnp.max(x, 0), jnp.cumsum(mps.relu(x), 1)))
    x = random(9, 40, 64)
    wide = np.asarray(x, np.float64)
    wanted = (2 * wide).sum(1), wide.max(0), np.maximum(wide, 0).cumsum(1)
    off = max(float(np.abs(np.asarray(g) - w).max()) for g, w in zip(f(x), wanted))
    return off, [[row.op, row.device, row.implementation] for row in mps.explain(f, x)]
"""
EVERY = "*CASES"


def rows(names=EVERY, more="", **environment):
    """What `rows` and `more` report, and what the process printed of kernels."""
    told, words = process(f"{OPS}\nreport(rows=rows({names}){more})", **environment)
    return told, words


def test_without_bfloat():
    """bfloat16 is XLA's, with the compiler's words; float16 and float32 stay, in graphs too."""
    for environment in ({}, CHECKED):
        told, _ = process(
            OPS
            + """
rows = {d: mps.explain(mps.softmax, x.astype(d).reshape(50, 100))[0] for d in ("bfloat16", "float16", "float32")}
half = x.astype(jnp.bfloat16)
right = bool((np.asarray(mps.relu(half), np.float32) == np.maximum(np.asarray(half, np.float32), 0)).all())
def mixed(a, w):
    y = mps.dense(a, w, neuron="relu")
    return mps.softmax(y), jnp.sum(y.astype(jnp.bfloat16) * jnp.bfloat16(2))
a, w = random(0, 9, 8), random(1, 8, 7)
y, total = mps.graph(mixed)(a, w)
with mps.set_device("reference"): wanted, wanted_total = mixed(a, w)
report(where={d: row.device for d, row in rows.items()}, why=rows["bfloat16"].implementation, right=right,
       off=float(jnp.abs(y - wanted).max()), total=abs(float(total - wanted_total)) / float(wanted_total),
       graph=[[r.op, r.device, r.implementation] for r in mps.explain(mps.graph(mixed), a, w)])
""",
            METAL_SIM_LACKS="bfloat",
            **environment,
        )
        assert told["where"] == {"bfloat16": "xla", "float16": "metal", "float32": "metal"}
        assert "unknown type name 'bfloat'" in told["why"] and told["right"]
        assert told["off"] < 1e-5 and told["total"] < 2e-2
        devices = {(op, device) for op, device, _ in told["graph"]}
        assert ("dense", "metal") in devices and ("softmax", "metal") in devices
        assert any(device == "xla" and "bfloat" in words for _, device, words in told["graph"])


MATRICES = "simdgroup_matrix|simdgroup_float8x8"


@pytest.mark.parametrize("environment", [{}, CHECKED], ids=["first that compiles", "checked"])
def test_without_matrices_of_simdgroups(environment):
    """The direct products and convolutions serve, and the recurrent layers' second form."""
    told, _ = rows(METAL_SIM_LACKS=MATRICES, **environment)
    assert {name: row for name, row in told["rows"].items() if row[0] != "metal" or row[2] > 1e-4} == {}
    for name, (_, implementation, _) in told["rows"].items():
        if name.split(": ")[1].startswith(("lstm", "gru")):
            assert implementation.endswith(", second form")
        if name.split(": ")[1].startswith(("dense", "conv")):
            assert implementation == "direct"


def test_without_sums_of_simdgroups():
    told, _ = rows(more=", chains=chains()", METAL_SIM_LACKS="simd_sum|simd_shuffle_xor", **CHECKED)
    assert {name: row for name, row in told["rows"].items() if row[0] != "metal" or row[2] > 1e-4} == {}
    for name in ("softmax: softmax", "batch_norm: batch_norm", "bias_gradient: bias_gradient"):
        assert told["rows"][name][1].endswith(", second form")
    off, ops = told["chains"]
    assert off < 1e-4 and all(device == "metal" for op, device, _ in ops if op == "chain")


def test_wrong_matrices():
    """They compile, and give wrong numbers: found out at first use."""
    told, words = rows("'dense', 'conv'", METAL_SIM_WRONG=MATRICES, **CHECKED)
    for name, (device, implementation, error) in told["rows"].items():
        assert (device, implementation) == ("metal", "direct") and error < 1e-4, name
    assert "does not use 'product in tiles of 64 by 64': its numbers differ from those of direct" in words


def test_a_kernel_that_is_wrong_in_every_form():
    """XLA serves, and explain says why."""
    told, _ = rows("'softmax', 'max_pool'", METAL_SIM_WRONG="kernel void softmax(", **CHECKED)
    device, words, error = told["rows"]["softmax: softmax"]
    assert device == "xla" and error < 1e-5
    assert "its numbers differ from those of the CPU" in words
    assert (
        told["rows"]["max_pool: max_pool_taps" if "max_pool: max_pool_taps" in told["rows"] else "max_pool: max_pool"][
            0
        ]
        == "metal"
    )


@pytest.mark.parametrize("kind", ["loops", "pointers"])
def test_what_apples_compiler_gets_wrong(kind):
    """First forms are wrong under such a compiler; each is found out, and the second form serves."""
    told, _ = rows(more=", chains=chains()", METAL_SIM_MISCOMPILE=kind, **CHECKED)
    assert {name: row for name, row in told["rows"].items() if row[0] != "metal" or row[2] > 1e-4} == {}
    off, ops = told["chains"]
    assert off < 1e-4 and all(device == "metal" for op, device, _ in ops if op == "chain")
    second = {name.split(": ")[1] for name, row in told["rows"].items() if row[1].endswith("second form")}
    assert {"softmax", "bias_gradient", "batch_norm", "batch_norm_gradient"} <= second
    if kind == "loops":
        assert {
            "dropout",
            "lstm_training",
            "lstm_gradient",
            "gru_training",
            "gru_gradient",
            "conv",
            "dense_data_gradient",
        } <= second


@pytest.mark.parametrize("kind", ["loops", "pointers"])
def test_the_planted_compiler_is_wrong(kind):
    """Without the checks wrong numbers come out: so what the test above finds is there."""
    told, _ = rows("'softmax', 'batch_norm', 'dense'", METAL_SIM_MISCOMPILE=kind)
    wrong = {name for name, (_, _, error) in told["rows"].items() if not error <= 1e-3}  # NaN counts
    assert {"softmax: softmax", "batch_norm: batch_norm", "batch_norm: batch_norm_gradient"} <= wrong


def test_second_forms_have_no_pattern_that_is_miscompiled():
    """The planted bugs find nothing in them, and something in each first form."""
    sys.path += [str(ROOT / "tests" / "metal_sim"), str(ROOT / "cc" / "metal")]
    import embed
    import miscompile

    for path in sorted((ROOT / "cc" / "metal" / "kernels").glob("*.metal")):
        text = "\n".join(line for line in embed.flatten(path, set()) if "#include <metal_" not in line)
        if "device const CAREFUL" not in text:
            continue
        for form, differs in (([], True), (["-DSECOND_FORM"], False)):
            command = [os.environ["METAL_SIM_CLANG"], "-E", "-P", "-x", "c++", "-std=c++14", "-undef", *form, "-"]
            code = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
            assert (miscompile.lose_turns(code) != code) is differs, path.name
            assert differs or miscompile.read_first(code) == code, path.name


DOCTOR = """
from jax_mps.doctor import kernels, report as doctor, training
import jax_mps.primitive
doctor.CHECKS = [doctor.CHECKS[i] for i in (4, 11)]
doctor.OPS = {name: jax_mps.primitive.OPS[name] for name in ("mps_dense", "mps_bias_gradient", "mps_softmax")}
training.main = lambda quick: []
code = doctor.main()
report(code=code, kernels=kernels.kernels(), printed=[str(row) for row in kernels.kernels()])
"""


def test_doctor_degrades():
    """Its report tells which kernels compiled, agreed and won; what XLA serves is no failure."""
    told, _ = process(DOCTOR, METAL_SIM_LACKS="bfloat|" + MATRICES, **CHECKED)
    table = {(op, dtype, name): row for op, dtype, name, *row in told["kernels"]}
    assert told["code"] == 0
    tried, compiled, agreed, won, reason = table["softmax", "f32", "softmax_row"]
    assert tried == compiled == agreed == won >= 1 and reason == ""
    tried, compiled, agreed, won, reason = table["softmax", "bf16", "softmax_row"]
    assert (compiled, agreed, won) == (0, 0, 0) and "unknown type name 'bfloat'" in reason
    tried, compiled, agreed, won, reason = table["dense", "f32", "product in tiles of 64 by 64"]
    assert (compiled, agreed, won) == (0, 0, 0) and "simdgroup_matrix" in reason
