"""A video of moving handwritten digits, and the truth about it: which digit is where in each picture.

The digits are those that the model of this repository was never trained on. Each wanders in its own part of the
picture, brightly on a dark and noisy ground, and is followed by another one; at times a part is empty, and now and then
all are.
The same seed gives the same pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.uint8]
SAMPLES = Path(__file__).resolve().parents[3] / "models" / "digits" / "samples.npz"
GROUND, NOISE = 24.0, 5.0
LIFE_S = 1.0
"""A digit is followed by another one after so long…"""
GAP_S = 0.1
"""…and a moment with none."""
EMPTY = 0.2
"""The share of the parts that are empty at a time."""


@dataclass(frozen=True, slots=True)
class Digit:
    """What is seen in one picture: the sample, what it is, and its square in pixels."""

    label: int
    sample: int
    x: int
    y: int
    side: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What the video is made of."""

    seconds: float = 10.0
    fps: int = 25
    width: int = 480
    height: int = 320
    columns: int = 4
    rows: int = 2
    seed: int = 1


def pictures(scene: Scene) -> Iterator[tuple[Grey, list[Digit]]]:
    """Each picture with its truth."""
    with np.load(SAMPLES, allow_pickle=False) as kept:
        images, labels = kept["image"][:, 0], kept["labels"]
    rng = np.random.default_rng(scene.seed)
    lives = math.ceil(scene.seconds / LIFE_S)
    parts = scene.columns * scene.rows
    order = rng.permutation(max(len(images), lives * parts)) % len(images)
    shown = order[: lives * parts].reshape(lives, parts)
    there = rng.random((lives, parts)) >= EMPTY
    phases = rng.random((lives, parts, 4))
    wide, high = scene.width // scene.columns, scene.height // scene.rows
    sides = rng.integers(48, 73, (lives, parts))
    for number in range(round(scene.seconds * scene.fps)):
        at = number / scene.fps
        life = int(at / LIFE_S)
        picture = rng.normal(GROUND, NOISE, (scene.height, scene.width))
        truth: list[Digit] = []
        for part in range(parts):
            if at % LIFE_S >= LIFE_S - GAP_S or not there[life, part]:
                continue
            side, phase = int(sides[life, part]), phases[life, part]
            # On a path that no other digit's crosses, with a margin that keeps them apart.
            left, top = part % scene.columns * wide, part // scene.columns * high
            x = left + 6 + round((wide - 12 - side) * (0.5 + 0.5 * math.sin(at * (1 + phase[0]) * 2 + phase[1] * 7)))
            y = top + 6 + round((high - 12 - side) * (0.5 + 0.5 * math.sin(at * (1 + phase[2]) * 2 + phase[3] * 7)))
            sample = int(shown[life, part])
            draw(picture, images[sample], x, y, side)
            truth.append(Digit(int(labels[sample]), sample, x, y, side))
        yield np.clip(picture, 0, 255).astype(np.uint8), truth


def draw(picture: npt.NDArray[np.float64], image: npt.NDArray[np.float32], x: int, y: int, side: int) -> None:
    """A digit of 8 x 8 with values 0 to 16, as large as `side`, over what is darker."""
    ink = np.asarray(Image.fromarray(image * np.float32(255 / 16)).resize((side, side), Image.Resampling.BILINEAR))
    square = picture[y : y + side, x : x + side]
    np.maximum(square, ink, out=square, where=ink > GROUND)


def write(scene: Scene, video: Path, truth: Path) -> int:
    """The video, compressed with loss as a camera's is, and its truth, a line of JSON for each picture; how many."""
    count = 0
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(video), "w") as container, truth.open("w", encoding="utf-8") as lines:
        stream: Any = container.add_stream(codec, rate=scene.fps)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20"} if codec == "libx264" else {"qscale": "3"}
        for number, (grey, digits) in enumerate(pictures(scene)):
            frame = av.VideoFrame.from_ndarray(grey, format="gray")
            container.mux(stream.encode(frame))
            rows = [{"label": d.label, "sample": d.sample, "box": [d.x, d.y, d.side, d.side]} for d in digits]
            lines.write(json.dumps({"frame": number, "digits": rows}) + "\n")
            count += 1
        container.mux(stream.encode())
    return count
