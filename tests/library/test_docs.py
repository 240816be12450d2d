"""The docs against the source: tables, variables, public names, paths. No page repeats what a test does not hold."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import jax
import pytest

import jax_mps as mps

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def script(name):
    """A script of docs/site as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", DOCS / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(page, pattern):
    return set(re.findall(pattern, (DOCS / page).read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="the page has the dtypes of the CPU device on Linux x86-64")
def test_program_text_is_current():
    module = script("program_text")
    assert module.page() == module.PAGE.read_text(), "run python docs/site/program_text.py"


def test_program_text_is_complete():
    module = script("program_text")
    ops = {op for family in module.checked_ops().values() for op in family}
    assert len(ops) > 50
    assert ops <= named("program.md", r"(?m)^\| `(\w+)\(")
    assert {name for name, _, _ in module.instruction_rows()} <= named("program.md", r"(?m)^\| `(\w+)` \| \d")
    sources = "".join(path.read_text() for path in (ROOT / "cc" / "ir").glob("check_*.cc"))
    attributes = set(re.findall(r'attributes\.(?:boolean|integers?|number|string|list|has)\("(\w+)"', sources))
    assert len(attributes) > 10 and attributes <= named(
        "program.md", r"`(\w+)` \((?:bool|integer|number|string|list)\)"
    )


def test_compiler_is_current():
    flax = pytest.importorskip("flax")
    page = (DOCS / "compiler.md").read_text()
    if f"JAX {jax.__version__}, Flax {flax.__version__}." not in page:
        pytest.skip("the page was written with other versions")
    module = script("compiler")
    assert module.page() == page, "run python docs/site/compiler.py"
    assert " = mps_conv_weight_gradient(" in page and " @0 = conv(" in page


def test_figures_are_current():
    module = script("figures")
    assert module.page() == module.PAGE.read_text(), "run python docs/site/figures.py"


def test_figures_of_a_run(tmp_path, monkeypatch):
    module = script("figures")
    row = lambda name, group, ratio: {"name": name, "group": group, "ratios": {"xla": ratio}}  # noqa: E731
    runs = []
    for k, factor in enumerate((1.0, 2.0)):
        records = [row(f"forward {i}", "forward float32", factor * ratio) for i, ratio in enumerate((1.0, 4.0))]
        runs.append(tmp_path / f"{k}.json")
        sections = {"conv": records, "graph": [row("Flax digits step, 64", "", 3.0)]}
        runs[-1].write_text(json.dumps({"sections": sections}))
    monkeypatch.setattr(module, "DATA", tmp_path / "figures.json")
    module.DATA.write_text('{"machines": []}')
    module.add("a machine", "of a test", runs)
    (machine,) = json.loads(module.DATA.read_text())["machines"]
    assert machine["figures"]["conv forward"] == {"xla": [pytest.approx(2.0), pytest.approx(4.0)]}
    assert "| the digit network in Flax and optax, with `mps.graph` | 3.0 |" in module.table({"machines": [machine]})


def test_environment_has_every_variable():
    files = [path for folder in ("jax_mps", "cc", "tests/metal_sim") for path in (ROOT / folder).rglob("*")]
    text = "".join(path.read_text() for path in files if path.suffix in (".py", ".cc", ".h"))
    read = set(re.findall(r"[\"']((?:JAX_MPS|METAL_SIM|OMP)_[A-Z_]+)[\"']", text))
    read |= set(re.findall(r'getenv\("(\w+)"\)', text))
    read |= set(re.findall(r"\$\{(METAL_SIM_\w+)", (ROOT / "tests" / "metal_sim" / "run").read_text()))
    read |= set(re.findall(r"option\((JAX_MPS_\w+)", (ROOT / "CMakeLists.txt").read_text()))
    page = (DOCS / "environment.md").read_text()
    told = set(re.findall(r"`([A-Z][A-Z_]+)`", page))
    assert len(read) > 30 and not read - told
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    of_tests = set(re.findall(r"environ(?:\.get)?[\[(][\"'](\w+)", tests))
    elsewhere = {"JAX_COMPILATION_CACHE_DIR", "JAX_MPS_METAL_CPP", "JAX_MPS_QUICK"}
    known = {name for name in told if name.startswith(("JAX", "METAL_SIM", "MACOS"))}
    assert not known - read - of_tests - elsewhere


def test_api_has_every_public_name():
    modules = [mps, mps.nn, mps.optim, mps.losses, mps.interop]
    pages = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"jax_mps\.([\w.]+)|`mps\.(\w+)`|`(\w+)`", pages))
    shown = {name for names in shown for name in names}
    public = {
        f"{module.__name__}.{name}".removeprefix("jax_mps.") for module in modules for name in module.__all__ if name
    }
    public |= {f"config.{n}" for n, v in vars(mps.config).items() if getattr(v, "__module__", "") == "jax_mps.config"}
    public = {name for name in public if not name.rpartition(".")[2].startswith("_")}
    modules_of_their_own = {"config", "interop", "losses", "nn", "optim"}
    types = {f"nn.{name}" for name in ("Initializer", "Params", "Shape")}
    assert len(public) > 80 and not public - shown - modules_of_their_own - types
    assert all(name.partition(".")[2] in shown for name in types)


FOLDERS = "jax_mps|cc|tests|docs|examples|findings|.ci|.github".replace(".", r"\.")
PATH = rf"(?<![\w/.])((?:{FOLDERS})/[\w./\-]*\w|CONTRIBUTING\.md|CHANGELOG\.md|NOTICE)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_exist(page):
    text = page.read_text()
    paths = {match.rstrip(".") for match in re.findall(PATH, text)}
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 80
    assert sum(line.startswith("    python3 -m venv ") for line in lines) == 2
