"""The macOS wheel that tests/macos/build makes on Linux; MACOS_WHEEL is its path, and without it the module skips."""

import os
import re
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path

import pytest
from macho import ARM64, DYLIB, MACOS, MachO
from setting import ROOT

WHEEL = os.environ.get("MACOS_WHEEL")
pytestmark = pytest.mark.skipif(not WHEEL, reason="needs the wheel: MACOS_WHEEL=$(tests/macos/build)")
HERE = Path(__file__).parent
PYTHON, ABI = Path(WHEEL).name.split("-")[2:4] if WHEEL else ("", "")
# Python 3.12's wheel keeps to the stable ABI, and is for the later ones too.
PYTHONS = ["3.12", "3.13", "3.14"] if ABI == "abi3" else [f"3.{PYTHON.removeprefix('cp3')}"]
LIBRARIES = {
    "Metal": "/System/Library/Frameworks/Metal.framework/Versions/A/Metal",
    "Foundation": "/System/Library/Frameworks/Foundation.framework/Versions/C/Foundation",
    "libobjc": "/usr/lib/libobjc.A.dylib",
    "libSystem": "/usr/lib/libSystem.B.dylib",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip installs the wheel for a Mac."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "macosx_14_0_arm64", PYTHONS[0])
    return folder


@pytest.fixture(scope="module")
def library(installed):
    (path,) = (installed / "jax_mps").glob("*.so")
    return MachO(path)


def install(folder, platform, python):
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--only-binary=:all:"]
    target = ["--platform", platform, "--python-version", python, "--target", str(folder)]
    subprocess.run([*command, *target, WHEEL], check=True, capture_output=True, text=True)


def test_pip_takes_it_for_these_platforms_and_pythons_only(installed, tmp_path):
    for platform, python in product(("macosx_14_0_arm64", "macosx_15_0_arm64"), PYTHONS):
        install(tmp_path / f"{platform}-{python}", platform, python)
    others = [(p, PYTHONS[0]) for p in ("macosx_13_0_arm64", "macosx_14_0_x86_64", "manylinux_2_28_x86_64")]
    for platform, python in [*others, ("macosx_14_0_arm64", "3.11" if ABI == "abi3" else "3.13")]:
        with pytest.raises(subprocess.CalledProcessError):
            install(tmp_path / f"{platform}-{python}", platform, python)


def test_holds_the_package():
    names = zipfile.ZipFile(WHEEL).namelist()
    tag = "abi3" if ABI == "abi3" else f"cpython-{PYTHON.removeprefix('cp')}-darwin"
    assert [n for n in names if n.endswith((".so", ".dylib"))] == [f"jax_mps/_ext.{tag}.so"]
    python = {str(p.relative_to(ROOT)) for p in (ROOT / "jax_mps").rglob("*.py")}
    assert python <= set(names)
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"jax_mps"}


def test_metadata(installed):
    (folder,) = installed.glob("*.dist-info")
    text = (folder / "METADATA").read_text()
    assert "\nName: jax-mps-kernels\n" in text
    assert "mlx" not in text, "its headers are of the build alone"
    assert "Root-Is-Purelib: false" in (folder / "WHEEL").read_text()


def test_is_a_library_for_macos_14_on_apple_silicon(library):
    assert (library.processor, library.kind, library.platform) == (ARM64, DYLIB, MACOS)
    assert library.minimum_system == (14, 0)
    assert sorted(library.libraries) == sorted(LIBRARIES.values())
    assert "_PyInit__ext" in library.exported


def test_is_signed(library):
    # Apple silicon runs nothing whose pages do not have the hashes of their signature.
    assert library.signature is not None
    assert library.wrong_pages() == []


def test_imports_only_what_was_reviewed(library):
    rows = [line.split("\t") for line in (HERE / "symbols.tsv").read_text().splitlines() if line[0] != "#"]
    allowed = {(LIBRARIES[name], symbol, rest == ["weak"]) for name, symbol, *rest in rows}
    for symbol in library.imports:
        if symbol.library == "":
            assert symbol.name.startswith(("_Py", "__Py")), f"{symbol.name} is nowhere"
        else:
            assert (symbol.library, symbol.name, symbol.weak) in allowed, symbol
    # Constants of later systems than 14 may be missing; what the device starts from may not.
    strong = {i.name for i in library.imports if i.library == LIBRARIES["Metal"] and not i.weak}
    assert strong == {"_MTLCopyAllDevices", "_MTLCreateSystemDefaultDevice"}


def test_exports_little(library):
    # zig links a libc++ of its own, whose operators new and delete stay visible; everything else is hidden.
    others = [name for name in library.exported if not name.startswith(("__Zn", "__Zd"))]
    assert sorted(others) == ["_PyInit__ext", "___dso_handle", "__mh_dylib_header"]


def test_carries_the_shaders(library):
    for file in (ROOT / "cc/metal/kernels").glob("*.metal"):
        for name in re.findall(r"^kernel void (\w+)", file.read_text(), re.MULTILINE):
            assert f"kernel void {name}(".encode() in library.data, name


def test_a_changed_page_is_noticed(library, tmp_path):
    data = bytearray(library.data)
    data[len(data) // 3] ^= 1
    (tmp_path / "changed.so").write_bytes(data)
    assert MachO(tmp_path / "changed.so").wrong_pages()
