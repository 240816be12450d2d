"""The host's rarer paths, each in a process of its own on the simulated Metal: staging, files on disk, faults, tuning.

Runs under tests/metal_sim/run; elsewhere there is no simulator and the module skips itself.
"""

import os
import re

import pytest
from metal_processes import process, processes

pytestmark = pytest.mark.skipif(
    not os.environ.get("METAL_SIM_BUILD"), reason="needs the rig: tests/metal_sim/run python -m pytest"
)

STAGING = """
y = np.asarray(mps.relu(x))
big = jnp.linspace(-1, 1, 3 << 20, dtype=jnp.float32)
z = np.asarray(mps.relu(big))
pooled = int(told()["staging_pool_bytes"])
for _ in range(5): mps.relu(x).block_until_ready()
again = int(told()["staging_pool_bytes"])
mps.clear_cache()
report(right=bool((y == np.maximum(x, 0)).all() and (z == np.maximum(big, 0)).all()), pooled=pooled, again=again,
       freed=int(told()["staging_pool_bytes"]), **{k: told()[k] for k in ("arrays", "staged_bytes", "direct_bytes")})
"""


@pytest.mark.parametrize(
    "environment",
    [{"METAL_SIM_FAULT": "no_copy=0"}, {"METAL_SIM_WRONG": "add_one"}, {"JAX_MPS_METAL_COPY": "1"}],
    ids=["refused", "wrong numbers", "asked"],
)
def test_staging(environment):
    """Arrays travel through pooled copies, large ones in several threads."""
    told, _ = process(STAGING, **environment)
    assert told["right"] and told["arrays"] == "copied" and int(told["staged_bytes"]) > 24 << 20
    assert told["pooled"] == told["again"] > 0 and told["freed"] == 0


def test_staging_of_some_arrays():
    """A buffer that is refused later is a copy, beside others in place."""
    told, _ = process(STAGING, METAL_SIM_FAULT="no_copy=2")
    assert told["right"] and told["arrays"] == "used in place"
    assert int(told["staged_bytes"]) > 0 and int(told["direct_bytes"]) > 0


ARCHIVE = "report(right=bool((np.asarray(mps.softmax(x)).sum() - 1) ** 2 < 1e-9))"


def test_archive(tmp_path):
    """Pipelines are kept on disk by GPU, system and version; the second process finds them all."""
    assert processes(ARCHIVE, tmp_path)[0]["right"]
    (path,) = tmp_path.glob("*.metalarchive")
    assert path.name.startswith("pipelines-") and "softmax" in path.read_text().split()
    written = path.stat().st_mtime_ns
    assert processes(ARCHIVE, tmp_path)[0]["right"]
    assert path.stat().st_mtime_ns == written
    path.write_text("damaged")
    assert processes(ARCHIVE, tmp_path)[0]["right"]
    assert "softmax" in path.read_text().split()


def test_archive_that_cannot_be_written(tmp_path):
    assert processes(ARCHIVE, tmp_path, METAL_SIM_FAULT="archive=0")[0]["right"]
    assert list(tmp_path.glob("pipelines*")) == []
    (tmp_path / "file").write_text("")
    assert processes(ARCHIVE, tmp_path / "file" / "folder")[0]["right"]


def test_capture(tmp_path):
    trace = tmp_path / "run.gputrace"
    code = "for i in range(12): mps.relu(x).block_until_ready()"
    process(code, JAX_MPS_METAL_CAPTURE=str(trace))
    assert "CommandQueue" in trace.read_text()
    _, words = process(code, JAX_MPS_METAL_CAPTURE=str(trace))  # exists already: no trace, and the run goes on
    assert "jax_mps: no GPU trace: outputURL exists already" in words


def test_runs_in_flight_are_bounded():
    """Of eight threads' programs at most three wait for the GPU."""
    told, _ = process(
        """
mps.relu(x).block_until_ready()
live, most, threads = simulator().metal_sim_live, 0, []
f = jax.jit(lambda x: mps.relu(x))
f(x).block_until_ready()
for i in range(8):
    threads.append(threading.Thread(target=lambda i=i: f(x * i).block_until_ready()))
for t in threads: t.start()
while any(t.is_alive() for t in threads):
    most = max(most, live(b"MTLCommandBuffer"))
    time.sleep(0.002)
report(most=most)
""",
        METAL_SIM_DELAY_MS="60",
    )
    assert 1 <= told["most"] <= 3


FAULTS = [
    ("command=3", "neuron (neuron)", "the GPU stopped: injected"),
    ("command_buffer=2", "Metal gives no command buffer", ""),
    ("encoder=3", "Metal gives no encoder", ""),
    ("heap=1", "RESOURCE_EXHAUSTED", "the working memory on the GPU of "),
]


@pytest.mark.parametrize("fault, words, more", FAULTS, ids=[f[0] for f in FAULTS])
def test_fault(fault, words, more):
    """A fault of the GPU is an error of XLA that says what failed, and the next run goes well."""
    told, _ = process(
        """
f = mps.graph(lambda x: mps.softmax(mps.relu(x)) * 2)
errors = [error_of(jax.jit(f), x) for _ in range(4)]
f = jax.jit(f)
report(errors=errors, right=bool(abs(float(f(x).sum()) - 2) < 1e-4))
""",
        METAL_SIM_FAULT=fault,
    )
    wrong = [e for e in told["errors"] if e]
    assert len(wrong) == 1 and more in wrong[0], told
    assert told["right"]
    if words.startswith("RESOURCE"):
        assert words in wrong[0]
    else:
        assert "INTERNAL" in wrong[0]
    if words.startswith("Metal"):
        assert words in wrong[0]


@pytest.mark.parametrize("fault", ["compile=0", "pipeline=0"])
def test_kernel_that_does_not_compile(fault):
    """The op stays on XLA, and explain says why."""
    told, _ = process(
        """
row = mps.explain(mps.relu, x)[0]
f = mps.graph(lambda x: mps.relu(x) * 2)
right = bool((np.asarray(f(x)) == 2 * np.maximum(x, 0)).all())
report(device=row.device, why=row.implementation, right=right)
""",
        METAL_SIM_FAULT=fault,
    )
    assert told["right"] and told["device"] == "xla"
    assert re.search("Metal (does not compile|makes no pipeline of) neuron: .*injected", told["why"])


def test_without_a_queue():
    """No queue, no device: the CPU serves."""
    told, _ = process("report(devices=ffi.devices())", METAL_SIM_FAULT="queue=1", JAX_MPS_DEVICE=None)
    assert told["devices"] == ["cpu"]


TUNED = """
random = lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
a, w = random(0, 70, 40), random(1, 40, 48)
row = mps.explain(mps.dense, a, w)[0]
error = float(np.abs(np.asarray(mps.dense(a, w)) - np.asarray(a, np.float64) @ np.asarray(w, np.float64)).max())
report(chosen=row.implementation, error=error)
"""
TUNE = {"JAX_MPS_AUTOTUNE": None}
# What the texts of the kernels say of their tiles; MPS stands for Apple's own kernels.
TILES = {
    "direct": "TILE_M|MPS",
    "product in tiles of 64 by 32": "TILE_M 32|TILE_N 64|product_direct|MPS",
    "product in tiles of 32 by 32": "TILE_M 64|TILE_N 64|product_direct|MPS",
}


def choices(folder):
    """What is kept on disk: node -> implementation."""
    (path,) = folder.glob("choices-*.tsv")
    return dict(line.split("\t") for line in path.read_text().splitlines())


@pytest.mark.parametrize("fastest", TILES)
def test_tuning_takes_the_fastest(tmp_path, fastest):
    """With all others made slow one wins; the choice is kept, and the next process asks no GPU."""
    told, _ = processes(TUNED, tmp_path, METAL_SIM_SLOW=TILES[fastest], **TUNE)
    assert told["chosen"] == fastest and told["error"] < 1e-4
    assert choices(tmp_path) == {"dense(f32[70,40] f32[40,48] ) f32[70,48] ": fastest}
    others = next(texts for name, texts in TILES.items() if name != fastest)
    again, _ = processes(TUNED, tmp_path, METAL_SIM_SLOW=others, **TUNE)
    assert again["chosen"] == fastest


def test_tuning_drops_wrong_candidates(tmp_path):
    """All tiles give wrong numbers: each is reported, in the same order in every process, and none is used."""
    words = []
    for folder in ("first", "second"):
        told, text = processes(TUNED, tmp_path / folder, METAL_SIM_WRONG="TILE_M|MPS", **TUNE)
        assert told["chosen"] == "direct" and told["error"] < 1e-4
        words.append([line for line in text.splitlines() if line.startswith("jax_mps: ")])
    assert words[0] == words[1]
    tiles = ("32 by 32", "32 by 64", "64 by 32", "64 by 64")
    for tile in tiles:
        line = next(line for line in words[0] if f"'product in tiles of {tile}'" in line)
        assert line.startswith("jax_mps: dense(f32[70,40]") and line.endswith(
            "its numbers differ from those of direct, second form"
        )


def test_tuning_drops_what_does_not_compile(tmp_path):
    told, text = processes(TUNED, tmp_path, METAL_SIM_FAULT="compile=3", **TUNE)
    assert told["error"] < 1e-4 and "injected" in text and len(choices(tmp_path)) == 1


def test_tuning_forgets_what_it_cannot_read(tmp_path):
    """Damaged lines, and choices that no recipe of today has, count for nothing."""
    processes(TUNED, tmp_path, METAL_SIM_SLOW=TILES["direct"], **TUNE)
    (path,) = tmp_path.glob("choices-*.tsv")
    path.write_text("no tab\n" + path.read_text().replace("direct", "of another version"))
    told, _ = processes(TUNED, tmp_path, METAL_SIM_SLOW=TILES["direct"], **TUNE)
    assert told["chosen"] == "direct"
    told, _ = processes(TUNED, tmp_path, METAL_SIM_SLOW="product_direct", **TUNE)
    assert told["chosen"] == "direct"  # the later line counts


def test_tuning_can_be_switched_off(tmp_path):
    told, _ = processes(TUNED, tmp_path, JAX_MPS_AUTOTUNE="0", METAL_SIM_SLOW=TILES["direct"])
    assert told["chosen"].startswith("product in tiles") and list(tmp_path.glob("choices*")) == []
