"""Six activities as a phone in a trouser pocket would measure them, from a simple physical model; or as CSV files.

The model. The thigh is a rod that swings about the hip in the plane of walking; the phone lies on it, `RADIUS` below
the hip. With the thigh's angle a(t) from the vertical, the hip's accelerations f(t) forward and u(t) upward (in g):

* the accelerometer measures specific force: (f, 0, u + 1), turned into the thigh's frame by a, plus what the swing
  adds, RADIUS a'' across and -RADIUS a'^2 along the thigh; at rest it reads 1 g upward;
* the gyroscope measures a' about the lateral axis, and a little roll and yaw of the hip;
* both are turned by the way the phone lies in this person's pocket, scaled and shifted as cheap sensors are, and noisy.

Each activity gives a(t), f(t), u(t) as a few harmonics of the stride frequency, and pulses where a foot meets the
ground. Every person has a cadence, a reach, a weight of step, a way to carry the phone and sensors of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

RATE = 50  # samples a second
WINDOW = 100  # samples that get one label: 2 s
STEPS = 20  # windows of a sequence
RADIUS = 0.25 / 9.81  # 25 cm, so that accelerations are in g
CHANNELS = ("ax", "ay", "az", "gx", "gy", "gz")
ACTIVITIES = ("sitting", "standing", "walking", "running", "upstairs", "downstairs")


class Gait(NamedTuple):
    """How the thigh and the hip move in one activity."""

    frequency: float  # strides a second; 0 at rest
    middle: float  # angle of the thigh, rad
    swing: float  # amplitude of the angle, rad
    asymmetry: float  # second harmonic of the angle
    bounce: float  # of the hip, g
    impact: float  # of each foot, g
    sharpness: float  # of the impact: decay, 1/s


GAITS = {
    "sitting": Gait(0, 1.40, 0, 0, 0, 0, 1),
    "standing": Gait(0, 0.05, 0, 0, 0, 0, 1),
    "walking": Gait(0.92, 0.10, 0.42, 0.15, 0.18, 0.35, 14),
    "running": Gait(1.38, 0.20, 0.62, 0.20, 0.75, 1.60, 20),
    "upstairs": Gait(0.75, 0.42, 0.48, 0.35, 0.14, 0.18, 9),
    "downstairs": Gait(0.88, 0.24, 0.28, -0.30, 0.16, 0.75, 22),
}


class Person(NamedTuple):
    """What is this person's own."""

    cadence: float
    reach: float
    weight: float
    posture: float  # added to the middle angle, rad
    pocket: np.ndarray  # [3, 3], the phone's orientation on the thigh
    gain: np.ndarray  # [6]
    offset: np.ndarray  # [6]
    noise: float


class Sequences(NamedTuple):
    """Sequences of STEPS windows."""

    signals: np.ndarray  # [n, STEPS * WINDOW, 6] float32
    labels: np.ndarray  # [n, STEPS] int32
    weights: np.ndarray  # [n, STEPS] float32: 1, or 0 where a recording has ended


def person(rng: np.random.Generator) -> Person:
    """Someone, drawn at random."""
    return Person(
        cadence=rng.uniform(0.88, 1.12),
        reach=rng.uniform(0.8, 1.2),
        weight=rng.uniform(0.75, 1.25),
        posture=rng.normal(0, 0.06),
        pocket=_rotation(rng.normal(0, 0.25, 3)),
        gain=rng.normal(1, 0.02, 6),
        offset=np.concatenate([rng.normal(0, 0.02, 3), rng.normal(0, 0.03, 3)]),
        noise=rng.uniform(0.02, 0.06),
    )


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def bout(who: Person, activity: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """[samples, 6]: this person at one activity."""
    gait, time = GAITS[activity], np.arange(samples) / RATE
    wander = np.cumsum(rng.normal(0, 0.02, samples)) / np.sqrt(RATE)  # slow changes of pace or posture
    middle = gait.middle + who.posture + 0.03 * wander
    if gait.frequency:
        frequency = gait.frequency * who.cadence * rng.uniform(0.95, 1.05)
        phase = 2 * np.pi * (frequency * time + rng.uniform()) + wander
        swing = gait.swing * who.reach * rng.uniform(0.92, 1.08)
        angle = middle + swing * (np.sin(phase) + gait.asymmetry * np.sin(2 * phase))
        since = np.mod(phase, np.pi) / (2 * np.pi * frequency)  # seconds since a foot last met the ground
        other = 0.55 + 0.45 * (np.mod(phase, 2 * np.pi) < np.pi)  # the other leg's impact comes damped
        pulse = gait.impact * who.weight * other * np.exp(-gait.sharpness * since)
        up = gait.bounce * who.weight * np.sin(2 * phase + 0.8) + pulse
        forward = 0.5 * gait.bounce * np.cos(2 * phase) - 0.4 * pulse
        roll, yaw = 0.35 * swing * np.cos(phase + 0.4), 0.5 * swing * np.sin(phase - 0.3)
    else:
        sway = np.convolve(rng.normal(0, 1, samples + RATE), np.hanning(RATE), "valid")[:samples] / RATE
        fidgets = (rng.uniform(size=samples) < 0.15 / RATE).astype(float)
        fidget = np.convolve(fidgets, np.hanning(RATE) * rng.normal(0, 0.15), "same")
        angle = middle + 0.02 * sway + fidget
        up, forward, roll, yaw = (0.01 * sway, 0.01 * sway, 0.02 * sway, 0.02 * sway)
    rate = np.gradient(angle, 1 / RATE)
    across, along = RADIUS * np.gradient(rate, 1 / RATE), -RADIUS * rate**2
    cos, sin = np.cos(angle), np.sin(angle)
    force = np.stack([cos * forward + sin * (up + 1) + across, 0.1 * roll, cos * (up + 1) - sin * forward + along], 1)
    turning = np.stack([roll, rate, yaw], 1)
    ideal = np.concatenate([force @ who.pocket, turning @ who.pocket], 1)
    return ideal * who.gain + who.offset + who.noise * rng.normal(0, 1, ideal.shape) * [1, 1, 1, 2, 2, 2]


def recording(who: Person, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Signals [samples, 6] and the activity [samples]: bouts of 10 to 24 s."""
    signals, labels, total, last = [], [], 0, -1
    while total < samples:
        label = int(rng.choice([i for i in range(len(ACTIVITIES)) if i != last]))
        length = int(rng.uniform(10, 24) * RATE)
        signals.append(bout(who, ACTIVITIES[label], length, rng))
        labels.append(np.full(length, label))
        total, last = total + length, label
    start = int(rng.integers(0, total - samples + 1))
    cut = slice(start, start + samples)
    return np.concatenate(signals)[cut], np.concatenate(labels)[cut]


def sequences(signals: np.ndarray, labels: np.ndarray, classes: int) -> Sequences:
    """A recording cut into sequences; a window's label is its majority's; what is missing at the end has weight 0."""
    windows = len(labels) // WINDOW
    count = -(-windows // STEPS)
    votes = np.eye(classes, dtype=int)[labels[: windows * WINDOW]].reshape(windows, WINDOW, classes).sum(1)
    padded = np.zeros((count * STEPS * WINDOW, len(CHANNELS)), np.float32)
    padded[: windows * WINDOW] = signals[: windows * WINDOW]
    steps, weights = np.zeros(count * STEPS, np.int32), np.zeros(count * STEPS, np.float32)
    steps[:windows], weights[:windows] = votes.argmax(1), 1
    return Sequences(padded.reshape(count, -1, len(CHANNELS)), steps.reshape(count, -1), weights.reshape(count, -1))


def together(parts: list[Sequences]) -> Sequences:
    """All sequences of the parts."""
    return Sequences(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def simulate(people: int, each: int, seed: int) -> list[Sequences]:
    """`each` sequences of every one of `people`."""
    result = []
    for i in range(people):
        rng = np.random.default_rng([seed, i])
        who = person(rng)
        runs = [recording(who, STEPS * WINDOW, rng) for _ in range(each)]
        result.append(together([sequences(*run, len(ACTIVITIES)) for run in runs]))
    return result


def read(folder: str) -> tuple[list[Sequences], tuple[str, ...]]:
    """The people of a folder of CSV files, and the names of their activities.

    Each file is one recording at a constant rate, with a header and the columns person, activity, ax, ay, az (in g),
    gx, gy, gz (in rad/s), rows in order of time. A person may have several files.
    """
    files = sorted(Path(folder).glob("*.csv"))
    if not files:
        raise ValueError(f"{folder}: there must be files named *.csv, but there are none. Check --data.")
    recordings = [(file, list(_rows(file))) for file in files]
    names = tuple(sorted({row[1] for _, rows in recordings for row in rows}))
    people: dict[str, list[Sequences]] = {}
    for file, rows in recordings:
        if len(rows) < WINDOW:
            raise ValueError(f"{file}: a recording must have at least {WINDOW} rows, but has {len(rows)}.")
        signals = np.array([row[2] for row in rows], np.float32)
        labels = np.array([names.index(row[1]) for row in rows])
        people.setdefault(rows[0][0], []).append(sequences(signals, labels, len(names)))
    return [together(parts) for parts in people.values()], names


def _rows(file: Path) -> Iterator[tuple[str, str, list[float]]]:
    with open(file, newline="") as lines:
        reader = csv.DictReader(lines)
        missing = {"person", "activity", *CHANNELS} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{file}: columns {', '.join(sorted(missing))} are missing. Write them into the header.")
        for number, row in enumerate(reader, 2):
            try:
                yield row["person"], row["activity"], [float(row[c]) for c in CHANNELS]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file}, line {number}: every channel must be a number, but got {row}.") from error
