"""What was seen against what was there: how many digits were right, and whether an answer was another picture's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from watch.reading import Source
from watch.running import Seen
from watch.seeing import Box, Digits

CLOSE = 1e-4
"""Probabilities of the mesh and of a plain run here differ by less."""
SHARED = 0.4
"""Of two boxes that are the same digit (intersection over union)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of the pictures that were answered, or had nothing in them."""

    digits: int
    """That were there…"""
    right: int
    """…and were found and read."""
    missed: int
    misread: int
    made_up: int
    """Found where nothing is."""
    wrong: int
    """Pictures whose answer is not what the model says of them."""

    @property
    def accuracy(self) -> float:
        """The share of the digits that were found and read right."""
        return self.right / self.digits if self.digits else 0.0


def judge(seen: Sequence[Seen], truth: Path, video: Path, model: Path, seer: Digits) -> Verdict:
    """The video is read once more, and each picture's questions are answered by ONNX Runtime alone, without a mesh."""
    there = {row["frame"]: row["digits"] for row in map(json.loads, truth.read_text("utf-8").splitlines())}
    right = missed = misread = made_up = digits = 0
    for it in seen:
        found = {index: (d.label, d.box) for index, d in enumerate(it.detections)}
        for digit in there[it.picture.number]:
            digits += 1
            best = max(found, key=lambda index: overlap(found[index][1], digit["box"]), default=None)
            if best is None or overlap(found[best][1], digit["box"]) < SHARED:
                missed += 1
                continue
            label, _ = found.pop(best)
            right += label == str(digit["label"])
            misread += label != str(digit["label"])
        made_up += len(found)
    return Verdict(digits, right, missed, misread, made_up, _wrong(seen, video, model, seer))


def _wrong(seen: Sequence[Seen], video: Path, model: Path, seer: Digits) -> int:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    by_number = {it.picture.number: it for it in seen}
    wrong = len(seen) - len(by_number)  # answered twice
    for picture in Source(str(video)).pictures():
        it, question = by_number.pop(picture.number, None), seer.ask(picture.rgb)
        if it is None:
            continue
        if question is None:
            wrong += bool(it.outputs)
            continue
        (expected,) = session.run(["probabilities"], dict(question.inputs))
        wrong += not (same(it.outputs, expected) and [d.box for d in it.detections] == list(question.boxes))
    return wrong + len(by_number)


def same(outputs: Mapping[str, Any], expected: Any) -> bool:
    """Whether the mesh says what a plain run says."""
    got = outputs.get("probabilities")
    return got is not None and got.shape == expected.shape and bool(np.allclose(got, expected, atol=CLOSE))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    wide = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    high = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0, wide) * max(0, high)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
