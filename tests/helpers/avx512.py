"""Executes AVX-512 code of the few instructions that chains use, as objdump names them, on machines without it."""

import re
import subprocess

import numpy as np

LANES = 16
NUMBERS = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*([^#]*?)\s*(?:#\s*0x([0-9a-f]+))?$")


def floats(x):
    return x.view(np.float32)


def ints(x):
    return x.view(np.int32)


def on_floats(f):
    return lambda *x: f(*map(floats, x)).astype(np.float32).view(np.uint32)


def on_ints(f):
    return lambda *x: f(*map(ints, x)).astype(np.int32).view(np.uint32)


def fused(f):
    return lambda *x: f(*(floats(v).astype(np.longdouble) for v in x)).astype(np.float32).view(np.uint32)


def shift(f, past):
    return lambda a, b: np.where(b < 32, f(a, np.minimum(b, 31)), past(a))


def rounded(x, mode):
    return on_floats({0: np.rint, 1: np.floor, 2: np.ceil}[mode & 3])(x)


# y = f(y, operands...), where y is what the destination held.
OPERATIONS = {
    "vaddps": lambda y, a, b: on_floats(np.add)(a, b),
    "vsubps": lambda y, a, b: on_floats(np.subtract)(a, b),
    "vmulps": lambda y, a, b: on_floats(np.multiply)(a, b),
    "vdivps": lambda y, a, b: on_floats(np.divide)(a, b),
    "vminps": lambda y, a, b: np.where(floats(a) < floats(b), a, b),
    "vmaxps": lambda y, a, b: np.where(floats(a) > floats(b), a, b),
    "vsqrtps": lambda y, x: on_floats(np.sqrt)(x),
    "vrndscaleps": lambda y, x, mode: rounded(x, mode),
    "vfmadd213ps": lambda y, a, b: fused(lambda y, a, b: a * y + b)(y, a, b),
    "vfmsub213ps": lambda y, a, b: fused(lambda y, a, b: a * y - b)(y, a, b),
    "vfnmadd213ps": lambda y, a, b: fused(lambda y, a, b: b - a * y)(y, a, b),
    "vfmadd231ps": lambda y, a, b: fused(lambda y, a, b: a * b + y)(y, a, b),
    "vfnmadd231ps": lambda y, a, b: fused(lambda y, a, b: y - a * b)(y, a, b),
    "vpaddd": lambda y, a, b: a + b,
    "vpsubd": lambda y, a, b: a - b,
    "vpmulld": lambda y, a, b: a * b,
    "vpandd": lambda y, a, b: a & b,
    "vpord": lambda y, a, b: a | b,
    "vpxord": lambda y, a, b: a ^ b,
    "vpminsd": lambda y, a, b: on_ints(np.minimum)(a, b),
    "vpmaxsd": lambda y, a, b: on_ints(np.maximum)(a, b),
    "vpminud": lambda y, a, b: np.minimum(a, b),
    "vpmaxud": lambda y, a, b: np.maximum(a, b),
    "vpabsd": lambda y, x: on_ints(np.abs)(x),
    "vpsllvd": lambda y, a, b: shift(np.left_shift, np.zeros_like)(a, b),
    "vpsrlvd": lambda y, a, b: shift(np.right_shift, np.zeros_like)(a, b),
    "vpsravd": lambda y, a, b: on_ints(np.right_shift)(a, np.minimum(b, 31)),
    "vpslld": lambda y, x, bits: x << np.uint32(bits),
    "vpsrld": lambda y, x, bits: x >> np.uint32(bits),
    "vpsrad": lambda y, x, bits: (ints(x) >> bits).view(np.uint32),
    "vcvtdq2ps": lambda y, x: ints(x).astype(np.float32).view(np.uint32),
    "vcvtudq2ps": lambda y, x: x.astype(np.float32).view(np.uint32),
    "vmovups": lambda y, x: x,
    "vmovdqa32": lambda y, x: x,
    "vbroadcastss": lambda y, x: x,
}
COMPARE = {
    "eq": lambda a, b: a == b,
    "eq_uq": lambda a, b: ~((a < b) | (a > b)),
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lt_oq": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "le_oq": lambda a, b: a <= b,
    "gt_oq": lambda a, b: a > b,
    "ge_oq": lambda a, b: a >= b,
    "nlt": lambda a, b: ~(a < b),
    "nlt_uq": lambda a, b: ~(a < b),
    "nle": lambda a, b: ~(a <= b),
    "unord": lambda a, b: (a != a) | (b != b),
}
MASKS = {
    "kandw": np.logical_and,
    "korw": np.logical_or,
    "kxorw": np.logical_xor,
    "knotw": np.logical_not,
    "kmovw": np.copy,
}


class Machine:
    """Runs a function (registers, n) of the type ChainCompiled; registers are arrays of 32-bit words."""

    def __init__(self, code: bytes, path):
        path.write_bytes(code)
        command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn", str(path)]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.code, self.lines, self.next = code, {}, {}
        matches = [m for m in map(NUMBERS.match, listing.splitlines()) if m]
        for m, after in zip(matches, [*matches[1:], None], strict=True):
            at = int(m[1], 16)
            self.lines[at] = m[2], [o.strip() for o in m[3].split(",")] if m[3] else [], m[4]
            self.next[at] = int(after[1], 16) if after else None

    def run(self, registers, n):
        self.registers, self.gpr, self.stack = registers, {"rsi": n, "rcx": 0}, {}
        self.vectors, self.masks = {}, {}
        at = 0
        with np.errstate(all="ignore"):
            while at is not None:
                at = self.step(at)

    def step(self, at):
        name, operands, self.reference = self.lines[at]
        after = self.next[at]
        if name == "ret":
            return None
        if name == "jmp" or (name == "jg" and self.compared > 0) or (name == "je" and self.gpr["rsi"] == 0):
            return int(operands[0], 16)
        if name[0] == "v" and name != "vzeroupper":
            self.vector(name, *operands)
        elif name[0] == "k":
            self.mask(name, *operands)
        elif name == "mov" and operands[1].startswith("QWORD PTR [rdi+"):
            self.gpr[operands[0]] = self.registers[int(operands[1][15:-1], 16) // 8]
        elif name == "mov" and operands[0] == "eax":
            self.gpr["eax"] = int(operands[1], 16)
        elif name == "lea":
            self.gpr["rax"] = self.gpr["rcx"] + int(operands[1][5:-1], 16)
        elif name == "cmp":
            self.compared = self.gpr["rax"] - self.gpr["rsi"]
        elif name == "add":
            self.gpr["rcx"] += int(operands[1], 16)
        elif name == "sub" and operands[0] == "rsi":
            self.gpr["rsi"] -= self.gpr["rcx"]
        elif name == "bzhi":
            self.gpr["eax"] &= (1 << self.gpr["rsi"]) - 1
        elif name == "xor":
            assert operands == ["ecx", "ecx"]
            self.gpr["rcx"] = 0
        else:  # the frame of the stack
            assert name in ("jg", "je", "vzeroupper", "push", "leave") or operands[0] in ("rbp", "rsp"), (
                name,
                operands,
            )
        return after

    def value(self, operand):
        """What an operand that is read holds; in memory, lanes beyond an array's end must not be read."""
        if m := re.fullmatch(r"zmm(\d+)", operand):
            return self.vectors[int(m[1])]
        if operand.startswith("0x"):
            return int(operand, 16)
        if "[rip+" in operand:
            word = np.frombuffer(self.code, np.uint32, 1, int(self.reference, 16))
            assert "DWORD" in operand
            return np.repeat(word, LANES)
        if "[rsp" in operand:
            return self.stack[operand[operand.index("[") :]]
        base, first = self.place(operand)
        return np.repeat(base[:1], LANES) if first is None else base[first:][:LANES]

    def place(self, operand):
        """The array in memory that an operand lies in, and where, or None for its single word."""
        m = re.search(r"\[(\w+)(\+rcx\*4)?(?:\+(0x\w+))?\]", operand)
        return self.gpr[m[1]], self.gpr["rcx"] + int(m[3] or "0", 16) // 4 if m[2] else None

    def vector(self, name, target, *operands):
        m = re.fullmatch(r"(.*?)(\{k(\d)\})?(\{z\})?", target)
        which = self.masks[int(m[3])] if m[3] else np.ones(LANES, bool)
        values = [self.value(re.sub(r"\{1to16\}", "", o)) for o in operands]
        if m[1].startswith("k"):
            self.masks[int(m[1][1:])] = which & self.compare(name, *values)
            return
        values = [self.extended(v, which) for v in values]
        if "rsp" in m[1]:
            self.stack[m[1][m[1].index("[") :]] = values[0].copy()
        elif "PTR" in m[1]:
            base, first = self.place(m[1])
            count = LANES if which.all() else int(which.sum())
            base[first : first + LANES][which[: base.size - first]] = values[0][which]
            assert first + count <= base.size
        else:
            old = self.vectors.get(int(m[1][3:]), np.zeros(LANES, np.uint32))
            y = np.where(which, values[1], values[0]) if name == "vblendmps" else OPERATIONS[name](old, *values)
            kept = np.zeros_like(old) if m[4] else old
            self.vectors[int(m[1][3:])] = y if name == "vblendmps" else np.where(which, y, kept).astype(np.uint32)

    def extended(self, value, which):
        if isinstance(value, int) or value.size == LANES:
            return value
        assert not which[value.size :].any(), "reads beyond the end of an array"
        return np.concatenate([value, np.zeros(LANES - value.size, np.uint32)])

    def compare(self, name, a, b):
        if name == "vptestmd":
            return (a & b) != 0
        if m := re.fullmatch(r"vcmp(\w+)ps", name):
            return COMPARE[m[1]](floats(a), floats(b))
        m = re.fullmatch(r"vpcmp(eq|neq|lt|le|nlt|nle)(u?)d", name)
        return COMPARE[m[1]](a, b) if m[2] else COMPARE[m[1]](ints(a), ints(b))

    def mask(self, name, target, *operands):
        def read(operand):
            if operand == "eax":
                return np.array([self.gpr["eax"] >> lane & 1 for lane in range(LANES)], bool)
            return self.stack[operand[operand.index("[") :]] if "[" in operand else self.masks[int(operand[1:])]

        y = MASKS[name](*map(read, operands))
        if "[" in target:
            self.stack[target[target.index("[") :]] = y
        else:
            self.masks[int(target[1:])] = y
