"""Command buffers hold so much work and no more, wait for no host, and shrink after a time-out.

Runs under tests/metal_sim/run; elsewhere there is no simulator and the module skips itself.
"""

import os

import pytest
from metal_processes import process

pytestmark = pytest.mark.skipif(
    not os.environ.get("METAL_SIM_BUILD"), reason="needs the rig: tests/metal_sim/run python -m pytest"
)

# As cc/metal/runtime/work.cc estimates: operations and bytes a second.
OPERATIONS, BYTES = 5e11, 4e10
SETUP = """
random = lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
tally = lambda what: simulator().metal_sim_tally(what)
def layers(count, size):
    w = random(0, size, size) / size**0.5
    def network(x, w):
        for _ in range(count): x = mps.dense(x, w, neuron="relu")
        return x
    def meaning(x):
        x = np.asarray(x, np.float64)
        for _ in range(count): x = np.maximum(x @ np.asarray(w, np.float64), 0)
        return x
    f = jax.jit(mps.graph(network))
    return (lambda x: f(x, w)), random(1, size, size), meaning
def off(got, wanted): return float(np.abs(np.asarray(got, np.float64) - wanted).max() / np.abs(wanted).max())
def counted(name, run):
    before = int(told()[name])
    run()
    return int(told()[name]) - before
"""


def run(code, **environment):
    """What the code reports."""
    return process(SETUP + code, **environment)[0]


COUNTS = """
f, x, meaning = layers({count}, {size})
f(x).block_until_ready()
for what in (b"dispatches", b"bytes", b"in_flight", b"waits"): tally(what)
y = f(x).block_until_ready()
report(off=off(y, meaning(x)), dispatches=tally(b"dispatches"), bytes=tally(b"bytes"), in_flight=tally(b"in_flight"),
       waits=tally(b"waits"), buffers=counted("command_buffers", lambda: f(x).block_until_ready()))
"""


@pytest.mark.parametrize("milliseconds", [0.2, 0.5, 100])
def test_work_of_a_command_buffer(milliseconds):
    """The simulator counts the launches and bytes of each command buffer; each launch is a product of known size."""
    count, size = 12, 256
    told = run(COUNTS.format(count=count, size=size), JAX_MPS_METAL_BUFFER_MS=str(milliseconds))
    most = int(milliseconds * 1e-3 * OPERATIONS / (2 * size**3))
    assert told["off"] < 1e-5
    assert told["dispatches"] <= min(most, count) and told["bytes"] <= milliseconds * 1e-3 * BYTES
    assert told["buffers"] == 1 or milliseconds < 100


def test_no_wait_between_command_buffers():
    """The host commits all of them, and waits for the last alone."""
    told = run(COUNTS.format(count=9, size=128), JAX_MPS_METAL_BUFFER_MS="0.02", METAL_SIM_DELAY_MS="20")
    assert told["off"] < 1e-5 and told["buffers"] > 4
    assert told["in_flight"] == told["buffers"] and told["waits"] <= told["buffers"]
    # Those waits are for buffers that are committed all: encoding had ended.


CUT = """
one = tally(b"dispatches")
for name, function, operands, wanted in CASES:
    y = np.asarray(jax.jit(function)(*operands))
    report_of[name] = [off(y, wanted), counted("command_buffers", lambda: function(*operands).block_until_ready()),
                       tally(b"dispatches")]
report(**report_of)
"""


def test_a_long_launch_is_cut():
    """Products and convolutions of more than a command buffer's work run in several, each a part of the grid."""
    told = run(
        """
report_of = {}
a, w = random(0, 512, 300), random(1, 300, 512)
x, k, thin = random(2, 4, 20, 20, 16), random(3, 3, 3, 16, 32), random(4, 3, 3, 2, 32)
def conv(x, k, groups): return jax.lax.conv_general_dilated(
    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)
def in_float64(f, *operands):
    with jax.enable_x64(True): return np.asarray(f(*(jnp.asarray(np.asarray(o, np.float64)) for o in operands)))
total = lambda f: lambda *operands: jnp.sum(f(*operands) ** 2)
thinly = lambda x, k: mps.conv(x, k, groups=8)
CASES = [("product", mps.dense, (a, w), np.asarray(a, np.float64) @ np.asarray(w, np.float64)),
         ("conv", mps.conv, (x, k), in_float64(lambda x, k: conv(x, k, 1), x, k)),
         ("direct", thinly, (x, thin), in_float64(lambda x, k: conv(x, k, 8), x, thin)),
         ("data", jax.grad(total(thinly), 0), (x, thin),
          in_float64(jax.grad(total(lambda x, k: conv(x, k, 8)), 0), x, thin)),
         ("weights", jax.grad(total(thinly), 1), (x, thin),
          in_float64(jax.grad(total(lambda x, k: conv(x, k, 8)), 1), x, thin))]
"""
        + CUT,
        JAX_MPS_METAL_BUFFER_MS="0.02",
    )
    for name, (off, buffers, dispatches) in told.items():
        assert off < 1e-5, name
        assert buffers >= 2 and dispatches >= 1, (name, buffers)


def test_small_command_buffers_give_the_same_bits():
    """A training in a scan, its state in the heap: nothing but fences orders it across command buffers."""
    code = """
def step(state, images):
    w, m = state
    loss = lambda w: jnp.mean(mps.dense(mps.softmax(mps.dense(images, w[0], neuron="relu")), w[1]) ** 2)
    value, g = jax.value_and_grad(loss)(w)
    m = jax.tree.map(lambda m, g: 0.9 * m + g, m, g)
    return (jax.tree.map(lambda w, m: w - 0.1 * m, w, m), m), value
w = [random(0, 12, 16), random(1, 16, 3)]
train = jax.jit(mps.graph(lambda state, images: jax.lax.scan(step, state, images)))
(state, losses) = train((w, jax.tree.map(jnp.zeros_like, w)), random(2, 7, 10, 12))
report(bits=[np.asarray(x).tobytes().hex() for x in jax.tree.leaves((state, losses))],
       buffers=int(told()["command_buffers"]))
"""
    whole, small = run(code), run(code, JAX_MPS_METAL_BUFFER_MS="0.02")
    assert whole["bits"] == small["bits"]
    assert whole["buffers"] < 5 and small["buffers"] > 5 * whole["buffers"]


AGAIN = """
f, x, meaning = layers(3, 64)
errors = [error_of(f, x) for _ in range(4)]
report(errors=errors, off=off(f(x), meaning(x)), milliseconds=int(told()["buffer_milliseconds"]))
"""


@pytest.mark.parametrize(
    "fault, milliseconds",
    [("timeout=2", 25), ("interactivity=2", 25), ("victim=2", 100)],
    ids=["time-out", "interactivity", "victim"],
)
def test_a_time_out_is_repeated_in_smaller_buffers(fault, milliseconds):
    """The user sees nothing of it; another program's fault changes nothing."""
    told = run(AGAIN, METAL_SIM_FAULT=fault)
    assert told["errors"] == [""] * 4 and told["off"] < 1e-5 and told["milliseconds"] == milliseconds


def test_a_victim_again_and_again_is_an_error():
    told = run(AGAIN.replace("off=off(f(x), meaning(x)), ", ""), METAL_SIM_FAULT="victim=0")
    assert all("the GPU stopped: Innocent Victim" in error for error in told["errors"])


def test_a_watchdog_is_met_by_smaller_buffers():
    """Of 40 products 20 at once are too many: the first run finds that out, the next has no time-out."""
    told = run(
        """
f, x, meaning = layers(40, 256)
first = f(x)
before = told()["buffer_milliseconds"]
report(off=off(first, meaning(x)), error=error_of(f, x), same=before == told()["buffer_milliseconds"],
       milliseconds=int(before))
""",
        METAL_SIM_WATCHDOG="20",
    )
    assert told["off"] < 1e-5 and told["error"] == "" and told["same"] and told["milliseconds"] < 5


def test_what_no_buffer_is_small_enough_for():
    told = run(
        AGAIN.replace("off=off(f(x), meaning(x)), ", ""),
        METAL_SIM_FAULT="timeout=0",
    )
    assert all("Command buffers are as small as they get: use a smaller batch." in error for error in told["errors"])
    assert told["milliseconds"] == 1


def test_a_time_out_with_donated_arrays():
    """What was overwritten cannot be repeated: an error says so, and the buffers are smaller."""
    told = run(
        """
f = jax.jit(mps.graph(lambda s, g: {"w": mps.relu(s["w"]) - 0.1 * g, "n": s["n"] + 1.0}), donate_argnums=0)
state, g = lambda: {"w": random(0, 5000), "n": jnp.zeros(3)}, random(1, 5000)
error = error_of(f, f(state(), g), g)
wanted = np.maximum(np.asarray(state()["w"]), 0) - np.float32(0.1) * np.asarray(g)
right = bool(np.allclose(f(state(), g)["w"], wanted))
report(error=error, milliseconds=int(told()["buffer_milliseconds"]), right=right)
""",
        METAL_SIM_FAULT="timeout=3",
    )
    assert "Donated arrays are lost: begin again from a copy of them." in told["error"]
    assert told["milliseconds"] == 25 and told["right"]
