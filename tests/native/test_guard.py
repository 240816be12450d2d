"""JAX_MPS_GUARD: kernels between canaries, and the words of those that write where they may not."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess

import pytest
from process import python
from setting import METAL, ROOT, examples

COMPILER = shutil.which("c++") or shutil.which("g++")


def wheel_file(wheel, name):
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((f.locate().resolve() for f in files if f.name == name), None)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """Runs guard.cc with arguments, and gives what it printed."""
    if METAL or not COMPILER:
        pytest.skip("needs a C++ compiler")
    program = tmp_path_factory.mktemp("guard") / "guard"
    sources = [ROOT / "tests/native/guard.cc", ROOT / "cc/cpu/onednn/guard.cc", ROOT / "cc/ir/program.cc"]
    command = [COMPILER, "-std=c++20", "-O1", f"-I{ROOT / 'cc'}", *sources, "-o", program]
    subprocess.run(command, check=True)

    def run(*arguments, mode="1"):
        environment = os.environ | {"JAX_MPS_GUARD": mode}
        return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("mode", ["0", "1", "2"])
def test_what_is_right_stays_so(guard, mode):
    assert guard("0", "nothing", mode=mode).stdout == "right"


@pytest.mark.parametrize(
    ("bytes", "place", "words"),
    [
        ("-1", "result", "stray wrote outside of a result, 1 bytes before its begin"),
        ("-60000", "result", "stray wrote outside of a result, 60000 bytes before its begin"),
        ("84", "result", "stray wrote outside of a result, 0 bytes after its end"),
        ("60000", "result", "stray wrote outside of a result, 59916 bytes after its end"),
        ("200", "scratch", "stray wrote outside of its scratch memory, 0 bytes after its end"),
        ("-4", "operand", "stray wrote outside of operand 0, 4 bytes before its begin"),
        ("5", "operand", "stray wrote into operand 0"),
        ("21", "result", "stray wrote between the rows of result 0"),
    ],
)
def test_a_stray_byte_is_an_error(guard, bytes, place, words):
    assert guard(bytes, place).stdout == words


def test_a_touched_page_ends_the_process(guard):
    assert guard("128", "result", mode="2").returncode < 0


def test_a_primitive_that_writes_too_far(tmp_path):
    header = wheel_file("onednn-devel-cpu-gomp", "dnnl.hpp")
    library = wheel_file("onednn-cpu-gomp", "libdnnl.so.3")
    if METAL or not (COMPILER and header and library):
        pytest.skip("needs a C++ compiler and oneDNN's wheels")
    sources = [
        ROOT / "tests/native/guard.cc",
        *(ROOT / f"cc/cpu/onednn/{n}.cc" for n in ("guard", "onednn")),
        *(ROOT / f"cc/ir/{n}.cc" for n in ("neuron", "program")),
    ]
    include = header.parent if header.parent.name != "dnnl" else header.parents[2]
    command = [
        COMPILER,
        "-std=c++20",
        "-O1",
        "-fopenmp",
        "-DJAX_MPS_ONEDNN",
        f"-I{ROOT / 'cc'}",
        "-isystem",
        include,
        *sources,
    ]
    command += [library, "-lgomp", f"-Wl,-rpath,{library.parent}", "-o", tmp_path / "guard"]
    subprocess.run(command, check=True)
    environment = os.environ | {"JAX_MPS_GUARD": "1"}
    run = subprocess.run([tmp_path / "guard", "primitive"], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "oneDNN relu wrote outside of its result, 0 bytes after its end"


def test_random_convolutions_stay_within_their_memory(native):
    """A sample of the run that tests/helpers/random_convolutions.py makes."""
    script = ROOT / "tests/helpers/random_convolutions.py"
    python(script, "--count", examples(80), "--seed", 100000, JAX_MPS_GUARD="1", JAX_MPS_DEVICE=native)
