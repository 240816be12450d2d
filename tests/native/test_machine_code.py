"""The code that chains become with AVX-512, run by the simulator of avx512.py, against the chain op on this machine."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from avx512 import Machine
from native import INTS, SPECIAL, chain
from setting import METAL, ROOT

COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(METAL or not (COMPILER and shutil.which("objdump")), reason="needs a C++ compiler and objdump"),
]

TYPES = {"f32": np.float32, "s32": np.int32, "u32": np.uint32, "pred": bool}
NAMES = list(TYPES)
ARITHMETIC = ["add", "sub", "mul", "max", "min"]
COMPARE = ["eq", "ne", "lt", "le", "gt", "ge"]
LOGIC = ["and", "or", "xor"]
SHIFT = ["shift_left", "shift_right_logical", "shift_right_arithmetic"]
FLOAT_UNARY = ["neg", "abs", "sign", "square", "floor", "ceil", "round_half_even", "sqrt", "rsqrt", "is_finite",
               "exp", "exp2", "log", "log1p", "expm1", "tanh", "logistic", "erf", "convert_f32"]  # fmt: skip
CASES = [
    *[(name, ["f32"]) for name in FLOAT_UNARY],
    *[(name, ["f32", "f32"]) for name in [*ARITHMETIC, "div", *COMPARE]],
    *[(name, [t, t]) for name in [*ARITHMETIC, *COMPARE, *LOGIC, *SHIFT] for t in ("s32", "u32")],
    *[(name, ["s32"]) for name in ("neg", "abs", "square", "not", "convert_f32", "convert_u32")],
    *[(name, ["u32"]) for name in ("square", "not", "convert_f32", "convert_s32")],
    *[(name, ["pred", "pred"]) for name in LOGIC],
    *[(name, ["pred"]) for name in ("not", "convert_f32", "convert_s32", "convert_u32")],
    *[("select", ["pred", t, t]) for t in ("f32", "s32", "u32")],
    *[("clamp", [t] * 3) for t in ("f32", "s32", "u32")],
]


@pytest.fixture(scope="module")
def segment_code(tmp_path_factory):
    """The machine code of a segment, from its lines."""
    program = tmp_path_factory.mktemp("segment_code") / "segment_code"
    files = ["assembler", "values", "formulas", "segment", "opcodes"]
    sources = [ROOT / "tests/native/segment_code.cc", *(ROOT / f"cc/cpu/jit/{name}.cc" for name in files)]
    subprocess.run([COMPILER, "-std=c++20", "-O1", f"-I{ROOT / 'cc'}", *sources, "-o", program], check=True)

    def run(lines, instructions="avx512"):
        result = subprocess.run([program, instructions], input="\n".join(lines).encode(), capture_output=True)
        assert result.returncode == 0, lines
        return result.stdout

    return run


def numbers():
    """The instructions' numbers."""
    rows = (ROOT / "cc/chain/instructions.def").read_text()
    names = re.findall(r"^JAX_MPS_INSTRUCTION\((\w+),", rows, re.M)
    return {name.rstrip("_"): i for i, name in enumerate(names)}


OPS = numbers()


def result_type(name, types):
    if name in COMPARE or name == "is_finite":
        return "pred"
    return name[8:] if name.startswith("convert_") else types[-1]


def line(name, types, y, operands, scalars=0):
    return f"step {OPS[name]} {NAMES.index(types[-1])} {scalars} {y} {' '.join(map(str, operands))}"


def values_of(kind, n, seed):
    rng = np.random.default_rng(seed)
    if kind == "pred":
        return rng.integers(0, 2, n).astype(bool)
    if kind == "f32":
        x = rng.normal(size=n) * 10.0 ** rng.integers(-4, 2, n)
        return np.where(rng.random(n) < 0.5, rng.choice(SPECIAL, n), x).astype(np.float32)
    few = rng.choice(INTS, n)
    return np.where(rng.random(n) < 0.5, few, rng.integers(-40, 40, n)).astype(TYPES[kind])


def words(x):
    return x.astype(np.uint32) if x.dtype == bool else x.view(np.uint32).copy()


def run(code, tmp_path, registers, n):
    """Each register's words after the function."""
    memory = [words(x) for x in registers]
    Machine(code, tmp_path / "code").run(memory, n)
    return memory


@pytest.mark.parametrize(("name", "types"), CASES, ids=[f"{n}-{'-'.join(t)}" for n, t in CASES])
def test_operation(segment_code, tmp_path, name, types):
    y, kind = len(types), result_type(name, types)
    code = segment_code([line(name, types, y, range(y)), f"write {y}"])
    for n in (331, 16, 3):
        operands = [values_of(t, n, seed) for seed, t in enumerate(types)]
        text = f"{name} {' '.join(map(str, range(y)))}"
        (expected,) = chain((n,), operands, [text], [["store", y]], [TYPES[kind]])
        result = run(code, tmp_path, [*operands, np.zeros(n, TYPES[kind])], n)[y]
        if kind == "f32":  # the simulator rounds products within sums twice
            np.testing.assert_allclose(result.view(np.float32), expected, rtol=2e-7, atol=1e-37)
        else:
            np.testing.assert_array_equal(result, words(expected))


class Random:
    """A random chain of whole numbers, and the segment of its steps."""

    def __init__(self, seed, operands=4, steps=60):
        self.rng = np.random.default_rng(seed)
        kinds = ["f32", "f32", "s32", "u32", "pred"]
        self.kinds = [str(self.rng.choice(kinds)) for _ in range(operands - 1)] + ["f32"]
        self.operands, self.text, self.lines, self.scalars = operands, [], [], {}
        for value in (-50.0, 50.0):
            self.scalars[len(self.kinds)] = np.float32(value)
            self.text.append(f"const {value}")
            self.kinds.append("f32")
        self.low, self.high = operands, operands + 1
        while len(self.lines) < steps:
            self.grow()

    def pick(self, kind):
        return int(self.rng.choice([i for i, k in enumerate(self.kinds) if k == kind and i not in self.scalars]))

    def add(self, name, types, operands):
        y = len(self.kinds)
        scalars = sum(1 << i for i, r in enumerate(operands) if r in self.scalars)
        self.lines.append(line(name, types, y, operands, scalars))
        self.text.append(f"{name} {' '.join(map(str, operands))}")
        self.kinds.append(result_type(name, types))
        return y

    def grow(self):
        kind = str(self.rng.choice(sorted({k for i, k in enumerate(self.kinds) if i not in self.scalars})))
        form, a, b = self.rng.integers(0, 7), self.pick(kind), self.pick(kind)
        if form == 0:
            self.add(str(self.rng.choice(LOGIC if kind == "pred" else COMPARE)), [kind] * 2, [a, b])
        elif form == 1 and "pred" in self.kinds and kind != "pred":
            self.add("select", ["pred", kind, kind], [self.pick("pred"), a, b])
        elif form == 2:
            self.add("convert_f32" if kind == "pred" else "neg" if kind != "u32" else "not", [kind], [a])
        elif form == 3 and kind == "f32":
            self.add("floor", ["f32"], [self.add("logistic", ["f32"], [a])])
        elif kind == "pred":
            self.add("not", ["pred"], [a])
        elif kind == "f32":
            y = self.add(str(self.rng.choice(ARITHMETIC)), ["f32"] * 2, [a, b])
            self.add("clamp", ["f32"] * 3, [self.low, y, self.high])
        else:
            self.add(str(self.rng.choice([*ARITHMETIC, *LOGIC, *SHIFT])), [kind] * 2, [a, b])


@pytest.mark.parametrize("seed", range(12))
def test_random_segments(segment_code, tmp_path, seed):
    random, n = Random(seed, steps=90), 53
    rng = np.random.default_rng(seed)
    operands = [rng.integers(0, 2 if k == "pred" else 9, n).astype(TYPES[k]) for k in random.kinds[: random.operands]]
    computed = range(random.operands + 2, len(random.kinds))
    writes = sorted({*computed[-3:], *map(int, rng.choice(computed, 24, replace=False))})
    folded = max(i for i in computed if random.kinds[i] == "f32")
    tile = len(random.kinds)
    lines = [*random.lines, *(f"fold {folded} {tile + r} {r}" for r in range(3)), *(f"write {r}" for r in writes)]
    code = segment_code(lines)
    memory = [*operands, *random.scalars.values()]
    memory = [np.atleast_1d(x) for x in memory] + [np.zeros(n, np.uint32) for _ in [*computed, 0, 0, 0]]
    memory = run(code, tmp_path, memory, n)
    dtypes = [TYPES[random.kinds[r]] for r in writes]
    expected = chain((n,), operands, random.text, [["store", r] for r in [*writes, folded]], [*dtypes, np.float32])
    for r, y in zip(writes, expected, strict=False):
        np.testing.assert_array_equal(
            *((memory[r].view(np.float32), y) if y.dtype == np.float32 else (memory[r], words(y)))
        )
    total, top, least = (memory[tile + r].view(np.float32) for r in range(3))
    np.testing.assert_array_equal(total, expected[-1])
    np.testing.assert_array_equal(top, np.maximum(expected[-1], 0))
    np.testing.assert_array_equal(least, np.minimum(expected[-1], 0))
