"""The simulated Metal catches what it should: each row is a planted bug, in a host program or in a shader.

Runs under tests/metal_sim/run, which sets METAL_SIM_BUILD; elsewhere there is no clang and the module skips itself.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

import pytest
from setting import ROOT

BUILD = os.environ.get("METAL_SIM_BUILD")
SANITIZED = bool(os.environ.get("METAL_SIM_SANITIZE"))
pytestmark = [
    pytest.mark.skipif(
        not BUILD, reason="needs the rig: tests/metal_sim/run python -m pytest tests/metal/test_simulator.py"
    ),
    pytest.mark.skipif(SANITIZED, reason="starts sanitized processes of its own"),
]
RIG = ROOT / "tests/metal_sim"
CLANG = os.environ.get("METAL_SIM_CLANG", "clang++")


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The native programs, compiled: name -> path."""
    folder = tmp_path_factory.mktemp("programs")
    headers = [f"-I{RIG / 'include'}", "-isystem", os.environ["METAL_SIM_CPP"]]
    flags = [CLANG, "-std=c++20", "-O1", "-g1", "-fblocks", *headers]
    subprocess.run([*flags, "-c", RIG / "programs" / "host.cc", "-o", folder / "host.o"], check=True)
    library = pathlib.Path(BUILD, "site", "jax_mps")
    link = [folder / "host.o", f"-L{library}", "-lmetal_sim", f"-Wl,-rpath,{library}"]

    def build(name):
        subprocess.run([*flags, RIG / "programs" / f"{name}.cc", *link, "-o", folder / name], check=True)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(build, ("axpy", "bugs", "mps", "shader")))
    return folder


def run(*command, **environment):
    """The output of a program, both streams, and its exit status."""
    settings = {**os.environ, **environment}
    if sanitizer := environment.get("METAL_SIM_SANITIZE"):
        runtime = {"address": "asan", "thread": "tsan"}[sanitizer]
        library = subprocess.check_output([CLANG, f"-print-file-name=libclang_rt.{runtime}-x86_64.so"], text=True)
        settings |= {
            "LD_PRELOAD": library.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "halt_on_error=1",
        }
    done = subprocess.run([str(c) for c in command], env=settings, capture_output=True, text=True, timeout=300)
    return done.stdout + done.stderr, done.returncode


def test_good_program(programs):
    for program in ("axpy", "mps"):
        text, status = run(programs / program)
        assert status == 0 and "good" in text, text
    text, status = run(programs / "bugs", "none")
    assert status == 0 and "completed\nlive: MTLDevice 1 1\n\n" in text, text


HOST_BUGS = [
    ("read_after_write", "hazard: read after write: scale's 'x' .* without a memoryBarrier", {}),
    ("write_after_read", "hazard: write after read", {}),
    ("write_after_write", "hazard: write after write", {}),
    ("aliased_heap_block", "hazard: write after read", {}),
    ("untracked_across_encoders", "hazard: read after write.* without a fence", {}),
    ("wrong_buffer_index", "unbound buffer: scale's 'y' .*buffer\\(2\\)", {}),
    ("swapped_buffer_indices", "argument constness: scale's 'y' .* is written, but was given by setBytes", {}),
    ("buffer_index_past_end", "buffer index: setBuffer: at index 31, past 30", {}),
    ("offset_past_end", "buffer offset: .* past the end", {}),
    ("small_constant_struct", "argument size: scale's 'p' .* needs 12 bytes, and 8", {}),
    ("long_constants", "setBytes length: .*5000", {}),
    ("large_threadgroup", "threads per threadgroup: .*1025", {}),
    ("threadgroup_memory_unset", "threadgroup memory: dynamic's 't'", {}),
    ("threadgroup_memory_exceeded", "kernel: big: threadgroup memory: 32784 bytes", {}),
    ("missing_end_encoding", "missing endEncoding", {}),
    ("encode_after_end", "encoder ended", {}),
    ("double_commit", "double commit", {}),
    ("wait_before_commit", "wait before commit", {}),
    ("late_handler", "late handler", {}),
    ("use_after_release", "use after release: -\\[MTLBuffer length\\]", {}),
    ("released_while_queued", "use after release: scale", {}),
    ("unknown_selector", "unrecognized selector: -\\[MTLBuffer functionNames\\]", {}),
    ("no_pool", "autorelease pool: .*MTLCommandBuffer", {}),
    ("misaligned_no_copy", "no-copy alignment", {}),
    ("no_copy_past_mapping", "no-copy range", {}),
    ("heap_range", "heap range", {}),
    ("heap_alignment", "heap alignment", {}),
    ("nil_allocation", "unbound buffer", {}),
    ("lost_error", "lost error: .*injected", {"METAL_SIM_FAULT": "command=1"}),
]


@pytest.mark.parametrize("name, words, environment", HOST_BUGS, ids=[b[0] for b in HOST_BUGS])
def test_host_bug(programs, name, words, environment):
    text, status = run(programs / "bugs", name, **environment)
    assert status in (70, -6), (status, text)
    assert re.search(f"metal_sim: {words}", text), text


def test_host_bug_by_other_means(programs):
    assert run(programs / "bugs", "private_contents")[1] == -11
    assert "MTLBuffer 1" in run(programs / "bugs", "leak")[0]
    assert "is int, and its value is of data type 3" in run(programs / "bugs", "wrong_constant_type")[0]


HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
KERNEL = HEAD + "[[kernel]] void k(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n"
REVERSE = {"METAL_SIM_REVERSE": "1"}
ADDRESS, THREAD = {"METAL_SIM_SANITIZE": "address"}, {"METAL_SIM_SANITIZE": "thread"}
TREE = KERNEL + (
    "  threadgroup float t[64];\n  t[i] = x[i];\n  threadgroup_barrier(mem_flags::mem_threadgroup);\n"
    "  for (uint n = 32; n > 0; n /= 2) {\n    if (i < n) t[i] += t[i + n];\n    BARRIER;\n  }\n  x[i] = t[0];\n}\n"
)
SHADER_BUGS = [
    ("device_out_of_bounds", KERNEL + "  x[i + 40] = 1;\n}", "out of bounds: k wrote past the end of buffer", {}),
    (
        "device_out_of_bounds_asan",
        KERNEL + "  x[0] = x[i + 40];\n}",
        "AddressSanitizer.*\n(.*\n)*.*program_source:4",
        ADDRESS,
    ),
    (
        "threadgroup_out_of_bounds",
        KERNEL + "  threadgroup float t[60];\n  t[i] = 1;\n  x[i] = t[0];\n}",
        "out of bounds: threadgroup memory 't' of 240 bytes",
        {},
    ),
    (
        "threadgroup_out_of_bounds_asan",
        KERNEL + "  threadgroup float t[60];\n  x[i] = t[i];\n}",
        "program_source:5.*index 60 out of bounds",
        ADDRESS,
    ),
    ("undefined_shift", KERNEL + "  x[i] = float(1 << (int(i) + 30));\n}", "program_source:4.*shift exponent", ADDRESS),
    ("missing_barrier", TREE.replace("BARRIER;", ""), "data race(.*\n)*.*program_source:8", THREAD),
    (
        "barrier_without_memory",
        TREE.replace("BARRIER", "threadgroup_barrier(mem_flags::mem_none)"),
        "data race",
        THREAD,
    ),
    ("threadgroup_race", KERNEL + "  if (i % 32 == 0) x[0] += 1;\n}", "data race(.*\n)*.*program_source:4", THREAD),
    (
        "simdgroup_race",
        KERNEL + "  threadgroup float t[64];\n  t[i] = x[i];\n  x[i] = t[i ^ 1];\n}",
        "data race(.*\n)*.*program_source:6",
        THREAD,
    ),
    (
        "barrier_in_branch",
        KERNEL + "  if (i < 16) threadgroup_barrier(mem_flags::mem_threadgroup);\n  x[i] = 1;\n}",
        "divergent barrier: .* line 4",
        {},
    ),
    (
        "return_before_barrier",
        KERNEL + "  if (i >= 48) return;\n  threadgroup_barrier(mem_flags::mem_threadgroup);\n}",
        "divergent barrier",
        {},
    ),
    (
        "two_barriers",
        KERNEL + "  if (i < 32) {\n    threadgroup_barrier(mem_flags::mem_threadgroup);\n  } else {\n"
        "    threadgroup_barrier(mem_flags::mem_threadgroup);\n  }\n}",
        "divergent barrier: .* lines (5 and 7|7 and 5)",
        {},
    ),
    (
        "divergent_simd",
        KERNEL + "  if (i & 1) x[i] = simd_sum(x[i]);\n  else x[i] = simd_max(x[i]);\n}",
        "divergent SIMD-group: .* lines (4 and 5|5 and 4)",
        {},
    ),
    ("uninitialised_threadgroup", KERNEL + "  threadgroup float t[64];\n  x[i] = t[i];\n}", "-?nan -?nan -?nan", {}),
    ("double", KERNEL + "  x[i] = double(x[i]);\n}", "program_source:4: error: MSL has no double", {}),
    (
        "missing_attribute",
        HEAD + "[[kernel]] void k(device float* x, uint i [[thread_position_in_grid]]) {}",
        "program_source:3: error: argument 'x' of kernel 'k' has no attribute",
        {},
    ),
    (
        "unqualified_argument",
        HEAD + "[[kernel]] void k(float* x [[buffer(0)]]) {}",
        "argument 'x' of kernel 'k' is a pointer with no address space",
        {},
    ),
    (
        "unqualified_pointer",
        KERNEL + "  const float* p = x;\n  x[i] = p[0];\n}",
        "program_source:4: error: no address space in `const float",
        {},
    ),
    (
        "space_of_argument",
        HEAD + "float f(threadgroup const float* t) { return t[0]; }\n" + KERNEL[len(HEAD) :] + "  x[i] = f(x);\n}",
        "program_source:5.* error: no matching function for call to 'f'",
        {},
    ),
    (
        "space_of_variable",
        KERNEL + "  threadgroup float t[64];\n  device float* p = t;\n  x[i] = p[0];\n}",
        "program_source:5.* error: cannot initialize",
        {},
    ),
    (
        "write_to_constant",
        HEAD + "[[kernel]] void k(constant float* x [[buffer(0)]]) { x[0] = 1; }",
        "program_source:3.* error: read-only variable",
        {},
    ),
    ("newer_language", KERNEL + "  if constexpr (true) x[i] = 1;\n}", "error: `if constexpr` is C\\+\\+17", {}),
    (
        "recursion",
        HEAD + "float f(float v) { return v > 1 ? f(v - 1) : v; }\n"
        "[[kernel]] void k(device float* x [[buffer(0)]]) { x[0] = f(x[0]); }",
        "function 'f' is recursive",
        {},
    ),
    (
        "initialised_threadgroup",
        KERNEL + "  threadgroup float t = float(1);\n  x[i] = t;\n}",
        "cannot read this threadgroup variable",
        {},
    ),
    (
        "vector_cast",
        KERNEL + "  int4 v = int4(1);\n  x[i] = ((float4)v).x;\n}",
        "error: a C-style cast of a vector",
        {},
    ),
    (
        "other_instance_arguments",
        HEAD
        + "template <typename T> [[kernel]] void f(device T* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {}\n"
        'template [[host_name("k")]] [[kernel]] void f<float>(device float* x [[buffer(1)]],'
        " uint i [[thread_position_in_grid]]);",
        "the arguments of the instantiation 'k' are not those of kernel 'f'",
        {},
    ),
    (
        "index_twice",
        HEAD + "[[kernel]] void k(device float* x [[buffer(0)]], device float* y [[buffer(0)]]) {}",
        "uses buffer\\(0\\) twice",
        {},
    ),
]


def shader(programs, tmp_path, source, *sizes, threads=64, group=64, **environment):
    """Runs kernel k of a source on the simulator."""
    (tmp_path / "k.metal").write_text(source)
    return run(programs / "shader", tmp_path / "k.metal", "k", threads, group, *sizes, **environment)


@pytest.mark.parametrize("name, source, words, environment", SHADER_BUGS, ids=[b[0] for b in SHADER_BUGS])
def test_shader_bug(programs, tmp_path, name, source, words, environment):
    threads = 128 if name == "threadgroup_race" else 64
    text, status = shader(programs, tmp_path, source, 256, 256, threads=threads, **environment)
    assert re.search(words, text), text
    assert status != 0 or "nan" in text


MATRIX = (
    HEAD
    + """[[kernel]] void k(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  threadgroup float s[8 * 8], t[2 * (32)];
  for (int j = i; j < 64; j += 32) {
    s[j] = j * 0.5f;
    t[j] = j % 8 == j / 8 ? 2.0f : 0.0f;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 l, r, c = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
  simdgroup_load(l, s, 8);
  simdgroup_load(r, t, 8, 0, true);
  simdgroup_multiply_accumulate(c, l, r, c);
  simdgroup_store(c, x, 8);
}
"""
)


def test_matrix(programs, tmp_path):
    text, _ = shader(programs, tmp_path, MATRIX, 256, threads=32, group=32)
    assert "1 2 3 4 5 6 7 8" in text, text


def test_orders_differ_without_barrier(programs, tmp_path):
    """The result of a kernel that lacks a barrier depends on the order in which the threads run."""
    source = TREE.replace("BARRIER;", "")
    assert shader(programs, tmp_path, source, 256)[0] != shader(programs, tmp_path, source, 256, **REVERSE)[0]


@pytest.mark.parametrize("environment", [{}, REVERSE, ADDRESS, THREAD], ids=["plain", "reverse", "address", "thread"])
def test_good_shader(programs, tmp_path, environment):
    source = TREE.replace("BARRIER", "threadgroup_barrier(mem_flags::mem_threadgroup)")
    text, status = shader(programs, tmp_path, source, 256, **environment)
    assert status == 0 and "completed\n96 96 96" in text, text


SHADER = "  {} of size 4 at 0x7f by thread T{}:\n    #0 softmax program_source:{}:1\n    #1 fiber_main() fibers.cc:1\n"
HOST = "  {} of size 8 at 0x7f by thread T{}:\n    #0 memmove <null> (libmetal_sim.so+0x{})\n"


@pytest.mark.parametrize(
    "first, second, counts", [(SHADER, SHADER, True), (SHADER, HOST, False), (HOST, SHADER, False)]
)
def test_races_of_shaders_count_alone(tmp_path, first, second, counts):
    accesses = [first.format("Write", 1, 30), second.format("Previous atomic read", 2, 32)]
    report = "WARNING: ThreadSanitizer: data race (pid=1)\n" + "\n".join([*accesses, "  Location is heap block\n"])
    logs = [tmp_path / "thread.1.1", tmp_path / "thread.1.2"]
    for log, text in zip(logs, ("", "==================\n" + report + "==================\n"), strict=True):
        log.write_text(text)
    text, status = run(sys.executable, RIG / "races.py", *logs)
    assert (text, status) == ((report, 1) if counts else ("", 0))


def test_a_race_fails_the_tests_of_ops():
    """A kernel of the product without its barriers, as the tests of ops run it under ThreadSanitizer."""
    tests = [
        "-n",
        "0",
        "tests/ops/test_ops.py",
        "-k",
        "test_value_and_gradient and softmax: and 1000 and not log_softmax",
    ]
    environment = THREAD | {"METAL_SIM_WITHOUT": "threadgroup_barrier(mem_flags::mem_threadgroup);"}
    settings = os.environ | environment | {"JAX_MPS_SAMPLE": "1"}
    command = [RIG / "run", sys.executable, "-m", "pytest", *tests]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300)
    assert "[metal-softmax: rows of 1000]" in done.stdout, done.stdout + done.stderr
    assert "data race program_source" in re.sub(r"/\S*/", "", done.stdout), done.stdout + done.stderr
    assert done.returncode == 66 and "shaders race: " in done.stderr
