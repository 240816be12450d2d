"""The shaders as CUDA C++: each translates, and where nvcc is, compiles. tests/metal_sim/H200.md says what then ran."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from process import python
from setting import ROOT

CUDA = ROOT / "tests" / "metal_sim" / "cuda"
sys.path[:0] = [str(CUDA), str(ROOT / "cc" / "metal")]

import compile_cuda  # noqa: E402
import embed  # noqa: E402
import gpu  # noqa: E402
import replay  # noqa: E402
import table  # noqa: E402
import to_cuda  # noqa: E402

FILES = sorted((ROOT / "cc" / "metal" / "kernels").glob("*.metal"))
# What the host puts before a file: the storage of its arrays, and tiles.
STORAGE = "".join(f"typedef half {name};\n" for name in ("T", "R", "G", "V", "S0", "S1", "S2"))
STORAGE += "typedef float W;\ntypedef float A;\ntypedef int L;\ntypedef uchar P;\n"
TILES = "#define TILE_M 32\n#define TILE_N 32\n#define TILE_K 16\n"
CHAIN = """kernel void chain(constant int* p [[buffer(0)]], device const float* x [[buffer(1)]],
    device int* y [[buffer(2)]],
    uint i [[thread_position_in_grid]]) {
  float r = sign_float(x[i]) + cbrt(as_type<float>(7u)) + erf(expm1(x[i]));
  y[i] = to_int(r) + p[0];
}
"""


def source(path):
    """The text that Metal would get."""
    text = "#include <metal_stdlib>\nusing namespace metal;\n" + STORAGE + TILES + "\n".join(embed.flatten(path, set()))
    return text + "\n" + (CHAIN if path.stem == "chain" else "")


def translated(path, prefix):
    """All kernels of a file as CUDA C++."""
    text = to_cuda.preprocess(source(path))
    names = re.findall(r"\bkernel\s+void\s+(\w+)", text)
    return "".join(
        to_cuda.translate(text, n, dict.fromkeys(range(8), "1"), f"{prefix}{i}") for i, n in enumerate(names)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_translates(path):
    text = translated(path, "k")
    assert 'extern "C" __global__ void' in text and text.count("__device__ ") >= text.count("__global__")
    assert not re.search(r"\[\[|\b(device|constant|threadgroup|thread|kernel)\b", text)


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs nvcc")
def test_compiles(tmp_path):
    text = '#include "msl_cuda.h"\n' + "".join(translated(p, f"{p.stem}_") for p in FILES)
    (tmp_path / "all.cu").write_text(text)
    compile_cuda.compile_module(tmp_path / "all.cu")
    assert (tmp_path / "all.cubin").stat().st_size > 0


def test_words_of_the_translation():
    text = """struct A { int x; int twice() { return x * 2; } };
constant float table[2] = {1.0f, 2.0f};
constant int mode [[function_constant(0)]];
template <int n> inline float add(thread float& x) { return x + n; }
kernel void k(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  threadgroup float a[4], b;
  if (i < 4) { b = table[i & 1] + mode; }
}
"""
    got = to_cuda.translate(text, "k", {0: "3"}, "name")
    for part in (
        "__device__ int twice()",
        "__constant__ const float table[2]",
        "constexpr int mode = 3;",
        "template <int n> __device__ inline float add( float& x)",
        "__shared__ float a[4], b;",
        "__device__ static void k(",
        "name(const __grid_constant__ msl::Launch launch)",
        "&msl::name_::k, msl::Where{msl::kBuffer, int(0)}, msl::Where{msl::kPosition, int(0)}",
    ):
        assert part in got
    with pytest.raises(to_cuda.msl.Refused, match="no kernel 'other'"):
        to_cuda.translate(text, "other", {}, "name")


def test_chained_memory():
    memory = replay.Memory()
    simulated, real = np.arange(8, dtype=np.uint8), np.arange(8, dtype=np.uint8) + 100
    assert memory.last(1000, 4) is None
    memory.write(1000, simulated, real)
    seen = memory.read(1002, np.array([2, 3, 9, 5, 6, 7, 8], np.uint8))  # one byte was written since, one is beyond
    np.testing.assert_array_equal(seen, [102, 103, 9, 105, 106, 107, 8])
    np.testing.assert_array_equal(memory.last(1004, 4), simulated[4:])


def test_error():
    wanted = np.array([1.0, np.nan, np.inf, -20.0])
    assert replay.error(wanted, wanted) == 0
    assert replay.error(np.array([2.0, np.nan, np.inf, -20.0]), wanted) == pytest.approx(1 / 20)
    assert replay.error(np.array([1.0, 0.0, np.inf, -20.0]), wanted) == np.inf
    np.testing.assert_array_equal(replay.numbers(np.array([0x80, 0x3F], np.uint8), "bfloat"), [1.0])


@pytest.mark.skipif("METAL_SIM_BUILD" not in os.environ, reason="needs tests/metal_sim/run")
def test_records(tmp_path):
    python(CUDA / "record.py", tmp_path, r"^softmax: rows of 10$")
    calls = json.loads((tmp_path / "calls.json").read_text())
    assert {(c["op"], c["dtype"]) for c in calls} >= {("softmax", "float32"), ("softmax_gradient", "bfloat16")}
    data = np.fromfile(tmp_path / "data.bin", np.uint8)
    for call in calls:
        written = call["dispatches"][-1]["arguments"][-1]  # the device's own test of its memory may come first
        (result,) = call["results"]
        assert written["access"] == "written" and written["address"] == result["address"]
        kind = {"float32": "float", "float16": "half", "bfloat16": "bfloat"}[call["dtype"]]
        got = replay.numbers(data[written["after"] : written["after"] + written["bytes"]], kind)
        truth = data[result["truth"] : result["truth"] + 8 * result["count"]].view(np.float64)
        assert replay.error(got, truth) < replay.TOLERANCE[call["dtype"]]


def test_tables(tmp_path, capsys, monkeypatch):
    """What comes back from the GPU becomes tables: shards join, an unfinished tool shows, a planted bug is named."""
    shard = {"calls": 2, "dispatches": 5, "unwritten": 0, "failures": []}
    rows = [
        {"tool": "memcheck", "folder": "a", "planted": False, "errors": 0, "dispatches": 5, "log": "a.log"},
        {"tool": "memcheck", "folder": "b", "planted": False, "errors": None, "dispatches": None, "log": "b.log"},
        {
            "tool": "memcheck",
            "folder": "planted-overrun",
            "planted": True,
            "errors": 3,
            "dispatches": 1,
            "log": "p.log",
        },
    ]
    reports = {
        "replay-a-0": shard | {"ops": [["conv", "float32", 1e-7, 2]], "kernels": {"gemm float": 2e-7}},
        "replay-a-1": shard | {"ops": [["conv", "float32", 3e-7, 4]], "kernels": {"gemm float": 1e-7, "tail half": 0}},
        "sanitizers": {"sanitizers": rows},
        "bandwidth-large": [["copy", "", 4262.0, "GB/s", 1.0, 0.0], ["relu", "neuron", 2131.0, "GB/s", 0.5, 0.1]],
        "about": {"about": {"gpu": "a GPU"}},
    }
    for name, report in reports.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    monkeypatch.setattr(sys, "argv", ["table.py", *map(str, sorted(tmp_path.glob("*.json")))])
    table.main()
    shown = capsys.readouterr().out
    assert "{'calls': 4, 'dispatches': 10, 'unwritten': 0} failures: []" in shown and "a GPU" in shown
    assert (
        "| conv | 3.0e-07 |  |  | 6 |" in shown and "| gemm | 2.0e-07 |" in shown and "| tail |  | 0.0e+00 |" in shown
    )
    assert "| memcheck | 5 | 0; not finished: b.log | planted-overrun: 3 errors |" in shown
    assert "| relu | neuron | 0.100 | 2131 GB/s | 50% |" in shown


@pytest.mark.parametrize(
    "text, count",
    [
        ("========= ERROR SUMMARY: 2 errors", 2),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)", 3),
        ("========= ERROR SUMMARY: 0 errors", 0),
    ],
)
def test_what_the_sanitizers_say(text, count):
    assert [int(n) for n in gpu.SUMMARY.findall(text)] == [count]
