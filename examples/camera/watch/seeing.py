"""What is asked of the mesh about a picture, and what its answer says is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from meshnode import detections
from meshnode.doors import Layout, Units
from meshnode.errors import InvalidInput

Array = npt.NDArray[Any]
Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the picture."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Something in a picture."""

    label: str
    score: float
    box: Box


@dataclass(frozen=True, slots=True)
class Question:
    """The inputs of the model, and the boxes that they were cut from, where there are any."""

    inputs: Mapping[str, Array]
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] = (0, 0)


class Seer(Protocol):
    """Knows one kind of model."""

    model: str

    def ask(self, rgb: Array) -> Question | None:
        """None when there is nothing to ask: nothing is in the picture."""

    def read(self, outputs: Mapping[str, Array], question: Question) -> list[Detection]:
        """Raises InvalidInput when the answer is not that of such a model."""


@dataclass(frozen=True, slots=True)
class Digits:
    """Finds what is bright on a dark ground and has it read, all of a picture as one batch."""

    model: str = "digits"
    above: float = 48.0
    """So much brighter than the ground is ink."""
    cell: int = 4
    """What lies this close together, in pixels, is one thing."""
    height_min: int = 24

    def ask(self, rgb: Array) -> Question | None:
        """A square around each thing, as 8 x 8 with values 0 to 16."""
        grey = rgb.mean(axis=2, dtype=np.float32)
        ground = float(np.median(grey[::4, ::4]))
        boxes = tuple(self.boxes(grey > ground + self.above))
        if not boxes:
            return None
        return Question({"image": np.stack([crop(grey - ground, box, 255 - ground) for box in boxes])}, boxes)

    def read(self, outputs: Mapping[str, Array], question: Question) -> list[Detection]:
        """The likeliest digit of each."""
        rows = outputs.get("probabilities")
        if rows is None or rows.shape != (len(question.boxes), 10):
            raise InvalidInput(f"{self.model} does not answer as a model of digits does")
        return [
            Detection(str(row.argmax()), round(float(row.max()), 4), box)
            for row, box in zip(rows, question.boxes, strict=True)
        ]

    def boxes(self, ink: npt.NDArray[np.bool_]) -> list[Box]:
        """Squares as high as each thing that is not too small. Digits fill their height, and not always their width."""
        rows, columns = ink.shape[0] // self.cell, ink.shape[1] // self.cell
        cells = ink[: rows * self.cell, : columns * self.cell]
        coarse = cells.reshape(rows, self.cell, columns, self.cell).any(axis=(1, 3))
        found: list[Box] = []
        for low, high, left, right in things(coarse):
            part = ink[low * self.cell : high * self.cell, left * self.cell : right * self.cell]
            ys, xs = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            side = int(ys[-1] - ys[0] + 1)
            if side < self.height_min:
                continue
            middle = left * self.cell + (xs[0] + xs[-1] + 1) / 2
            found.append((round(middle - side / 2), low * self.cell + int(ys[0]), side, side))
        return sorted(found)


def things(coarse: npt.NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """The connected parts of a coarse picture, corners included: top, bottom, left, right."""
    open_ = {(int(y), int(x)) for y, x in zip(*np.nonzero(coarse), strict=True)}
    found = []
    while open_:
        edge = [open_.pop()]
        low, left = edge[0]
        high, right = edge[0]
        while edge:
            y, x = edge.pop()
            low, high, left, right = min(low, y), max(high, y), min(left, x), max(right, x)
            near = {(y + dy, x + dx) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2)} & open_
            open_ -= near
            edge.extend(near)
        found.append((low, high + 1, left, right + 1))
    return found


def crop(grey: Array, box: Box, white: float) -> npt.NDArray[np.float32]:
    """[1, 8, 8] with values 0 to 16; what lies outside of the picture is dark."""
    x, y, side, _ = box
    square = np.zeros((side, side), np.float32)
    part = grey[max(y, 0) : y + side, max(x, 0) : x + side]
    square[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1]] = part
    small = Image.fromarray(np.clip(square, 0, white)).resize((8, 8), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[None] * np.float32(16 / white)


@dataclass(frozen=True, slots=True)
class Detector:
    """Any detector whose input is one picture and whose output has one of the usual layouts.

    Args:
        layout: of the input: NCHW or NHWC; `colours`: rgb, bgr or grey.
        low, high: what black and white become; `mean` and `std` are then taken off and divided by, colour by colour.
        fit: "stretch", or "letterbox" (the picture keeps its shape, the rest is grey).
    """

    model: str
    input: str
    width: int
    height: int
    layout: str = "NCHW"
    dtype: str = "float32"
    colours: str = "rgb"
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    fit: str = "stretch"
    decode: Layout = Layout.YOLO
    units: Units = Units.PIXELS
    output: str = ""
    threshold: float = 0.4
    overlap: float = 0.45
    limit: int = 100
    labels: tuple[str, ...] = ()

    def ask(self, rgb: Array) -> Question:
        """The whole picture."""
        size = (rgb.shape[1], rgb.shape[0])
        left, top, wide, high = self._place(size)
        image = Image.fromarray(rgb).resize((wide, high), Image.Resampling.BILINEAR)
        if (wide, high) != (self.width, self.height):
            ground = Image.new("RGB", (self.width, self.height), (114, 114, 114))
            ground.paste(image, (left, top))
            image = ground
        picture = np.asarray(image.convert("L") if self.colours == "grey" else image)
        picture = picture[..., None] if picture.ndim == 2 else picture
        if self.colours == "bgr":
            picture = picture[..., ::-1]
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            picture = self.low + picture.astype(np.float32) * np.float32((self.high - self.low) / 255)
            if self.mean:
                picture = picture - np.array(self.mean, np.float32)
            if self.std:
                picture = picture / np.array(self.std, np.float32)
        picture = picture.transpose(2, 0, 1) if self.layout == "NCHW" else picture
        return Question({self.input: np.ascontiguousarray(picture[None], dtype)}, size=size)

    def read(self, outputs: Mapping[str, Array], question: Question) -> list[Detection]:
        """Boxes in pixels of the picture that was seen."""
        name = self.output or (next(iter(outputs)) if len(outputs) == 1 else "")
        if name not in outputs:
            raise InvalidInput(f"the outputs of {self.model} are {', '.join(outputs)}", hint="name one: [output] name")
        rows = detections.read(
            outputs[name],
            self.decode,
            height=self.height,
            width=self.width,
            units=self.units,
            threshold=self.threshold,
            overlap=self.overlap,
            limit=self.limit,
        )
        left, top, wide, high = self._place(question.size)
        found = []
        for kind, score, *corners in rows.tolist():
            y1, y2 = ((corner * self.height - top) / high * question.size[1] for corner in corners[::2])
            x1, x2 = ((corner * self.width - left) / wide * question.size[0] for corner in corners[1::2])
            box = (round(x1), round(y1), round(x2 - x1), round(y2 - y1))
            number = int(kind)
            label = self.labels[number] if 0 <= number < len(self.labels) else str(number)
            found.append(Detection(label, round(score, 4), box))
        return found

    def _place(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Where in the input the picture lies: left, top, width, height."""
        if self.fit == "stretch":
            return 0, 0, self.width, self.height
        scale = min(self.width / size[0], self.height / size[1])
        wide, high = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return (self.width - wide) // 2, (self.height - high) // 2, wide, high
