"""A kernel that Apple's compiler is known to take runs on the simulated Metal, with numpy's results.

It is MLX's matrix product, which loads tiles by threadgroup memory and multiplies them by simdgroup_matrix. Its sources
come with the wheel that has metal-cpp's headers, which tests/metal_sim/run fetches; elsewhere the module skips itself.
"""

import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from setting import ROOT

CPP = os.environ.get("METAL_SIM_CPP")
pytestmark = [
    pytest.mark.skipif(
        not CPP, reason="needs the rig: tests/metal_sim/run python -m pytest tests/metal/test_outside_kernel.py"
    ),
    pytest.mark.skipif(bool(os.environ.get("METAL_SIM_SANITIZE")), reason="starts sanitized processes of its own"),
]
RIG = ROOT / "tests/metal_sim"
KERNELS = "mlx/backend/metal/kernels/steel"
BM, BN, BK, WM, WN = 32, 32, 16, 2, 2
# What the product names of MLX's other files and does not use here.
HEAD = """#include <metal_stdlib>
using namespace metal;
struct complex64_t { float real, imag; };
inline long elem_to_loc(uint, const constant int*, const constant int64_t*, int) { return 0; }
"""
# Specialisations that differ in nothing but the address space, which the runner erases; and an unused helper that
# calls itself by a template.
POINTERS = r"template <typename T>\nstruct pointer_element<(?:device|constant|threadgroup) T\*> \{.*?\};\n"
LOOP = r"template <int start, int stop, int step, typename F>\nconstexpr void const_for_loop.*?\n}\n"


def flatten(path, folder, seen):
    """A source with the files that it includes from its own folder, each once."""
    text = []
    for line in (folder / path).read_text().splitlines():
        included = re.match(r'\s*#include\s*([<"])(.*)[>"]', line)
        if included and included[1] == '"':
            if included[2] not in seen:
                seen.add(included[2])
                text.append(flatten(included[2], folder, seen))
        elif not included and not line.startswith(("#pragma once", "#pragma METAL")):
            text.append(line)
    return "\n".join(text) + "\n"


def instance(name, kind, transpose_a, transpose_b):
    """An instantiation under a host name."""
    flags = [str(t).lower() for t in (transpose_a, transpose_b)]
    kernel = f"gemm<{', '.join(map(str, [kind, BM, BN, BK, WM, WN, *flags, 'float']))}>"
    return f'template [[host_name("{name}")]] [[kernel]] decltype({kernel}) {kernel};\n'


@pytest.fixture(scope="module")
def source():
    """The flattened kernel with an instance a dtype."""
    folder = next(p for p in Path(CPP).resolve().parents if (p / KERNELS).exists())
    seen, text = set(), HEAD
    for name in ("gemm/gemm.h", "gemm/kernels/steel_gemm_fused.h"):
        text += flatten(f"{KERNELS}/{name}", folder, seen)
    for pattern, count in ((POINTERS, 3), (LOOP, 1)):
        text, found = re.subn(pattern, "", text, flags=re.DOTALL)
        assert found == count
    text = text.replace("pointer_element<thread T*>", "pointer_element<T*>")
    text = text.replace("WM* WN * 32", str(WM * WN * 32))  # the runner reads no template's arguments there
    return text + instance("nn_float", "float", False, False) + instance("nt_half", "half", False, True)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """The program that runs a kernel on files."""
    program = tmp_path_factory.mktemp("launch") / "launch"
    library = Path(os.environ["METAL_SIM_BUILD"], "site", "jax_mps")
    command = [os.environ["METAL_SIM_CLANG"], "-std=c++20", "-O1", "-g1", "-fblocks", f"-I{RIG / 'include'}"]
    command += ["-isystem", CPP, RIG / "programs/host.cc", RIG / "programs/launch.cc"]
    link = [f"-L{library}", "-lmetal_sim", f"-Wl,-rpath,{library}"]
    subprocess.run([*command, *link, "-o", program], check=True)
    return program


@pytest.mark.parametrize("environment", [{}, {"METAL_SIM_REVERSE": "1"}], ids=["plain", "reverse"])
@pytest.mark.parametrize("shape", [(64, 96, 32), (100, 90, 77)], ids=["aligned", "edges"])
@pytest.mark.parametrize("name", ["nn_float", "nt_half"])
def test_product(source, launch, tmp_path, name, shape, environment):
    m, n, k = shape
    dtype = np.float16 if name == "nt_half" else np.float32
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-4, 5, s).astype(dtype) for s in ((m, k), (k, n), (m, n)))
    right = np.ascontiguousarray(b.T) if name == "nt_half" else b
    tiles_m, tiles_n = -(-m // BM), -(-n // BN)
    sizes = [m, n, k, k, right.shape[1], n, tiles_n, tiles_m, m * k, k * n, m * n, 0, k // BK, 1]
    parameters = np.frombuffer(struct.pack("<8i3q3i4x", *sizes), np.uint8)
    addition = np.frombuffer(struct.pack("<2iq2f", n, 1, m * n, 1, 1), np.uint8)
    result = np.full((m, n), np.nan, dtype)
    # D = A B + C: no batch, C is there, without factors; then whether whole tiles fit.
    constants = {10: 0, 100: 1, 110: 0, 200: m % BM == 0, 201: n % BN == 0, 202: k % BK == 0}
    words = [f"constant:{index}={int(value)}" for index, value in constants.items()]
    for index, array in {0: a, 1: right, 2: c, 3: result, 4: parameters, 5: addition}.items():
        array.tofile(tmp_path / str(index))
        words.append(f"buffer:{index}={tmp_path / str(index)}")
    (tmp_path / "gemm.metal").write_text(source)
    command = [launch, tmp_path / "gemm.metal", name, f"{tiles_n},{tiles_m},1", f"32,{WN},{WM}", *words]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "completed\n", done.stdout[-3000:] + done.stderr[-3000:]
    got = np.fromfile(tmp_path / "3", dtype).reshape(m, n)
    # Of small integers every product and sum is exact in float, and the results are so in float16.
    wanted = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_array_equal(got, wanted.astype(dtype))
