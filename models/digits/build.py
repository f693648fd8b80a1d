"""Build digits: a small convolutional network for 8x8 handwritten digits, trained from a fixed seed in under a minute.

    pip install --group models
    python models/digits/build.py               # train, export, write everything, say how good it is
    python models/digits/build.py --validate    # judge the recipe on the last 300 training images instead

Writes model.onnx, samples.npz (the held-out part, which training never sees) and 0.png .. 9.png.
"""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).resolve().parent
SEED = 20
EPOCHS = 80
BATCH = 64
HELD_OUT = 540
VALIDATED = 300
PICTURE = 64
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Images [n, 8, 8] with pixels 0..16, and their digits."""

    images: Images
    labels: Labels


def load() -> tuple[Part, Part]:
    """(training part, held-out part): cut by position, since the images seem to lie writer after writer."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = digits.images.astype(np.float32), digits.target.astype(np.int64)
    cut = len(images) - HELD_OUT
    return Part(images[:cut], labels[:cut]), Part(images[cut:], labels[cut:])


def network() -> Any:
    """Three convolutions with two max pools, and one dense layer."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(256, 10),
    )


def train(part: Part) -> Any:
    """Fit to a part alone: every image is turned, scaled, slanted and moved a little, half of them are blurred."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the same sums in the same order every time
    torch.use_deterministic_algorithms(True)
    net = network()
    mean = copy.deepcopy(net)
    images, labels = torch.from_numpy(part.images[:, None] / 16), torch.from_numpy(part.labels)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(net(_varied(images[batch])), labels[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                for kept, now in zip(mean.parameters(), net.parameters(), strict=True):
                    kept.lerp_(now, 0.02)
    return mean.eval()


def _varied(images: Any) -> Any:
    """Each image a little different, as another hand or a resized picture would have it."""
    import torch
    from torch.nn import functional

    n = len(images)

    def spread(size: float) -> Any:
        return (torch.rand(n) * 2 - 1) * size

    angle, scale, slant = spread(0.22), 1 + spread(0.12), spread(0.15)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([cos, -sin + slant, spread(0.15), sin, cos, spread(0.15)], 1).view(n, 2, 3)
    moved = functional.grid_sample(
        images, functional.affine_grid(matrix, list(images.shape), False), align_corners=False
    )
    padded = functional.pad(moved, (1, 1, 1, 1), mode="replicate")
    blurred = 0.5 * moved + 0.5 * functional.avg_pool2d(padded, 3, 1)
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, blurred, moved)


def to_onnx(net: Any) -> bytes:
    """The network as ONNX, with the scaling inside and a symbolic batch."""
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in net.state_dict().items()]
    conv = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Mul", ["image", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "0.weight", "0.bias"], ["c1"], **conv),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "2.weight", "2.bias"], ["c2"], **conv),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p1"], **pool),
        helper.make_node("Conv", ["p1", "5.weight", "5.bias"], ["c3"], **conv),
        helper.make_node("Relu", ["c3"], ["r3"]),
        helper.make_node("MaxPool", ["r3"], ["p2"], **pool),
        helper.make_node("Flatten", ["p2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "10.weight", "10.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        initializer=[*weights, numpy_helper.from_array(np.array(1 / 16, np.float32), "scale")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, producer_name="meshnode", opset_imports=opset, ir_version=8)
    helper.set_model_props(model, {"meshnode.image.range": "0,16", "meshnode.image.layout": "NCHW"})
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def as_picture(image: Images) -> Image.Image:
    """An image [8, 8] as a 64x64 greyscale picture."""
    pixels = np.rint(image * (255 / 16)).astype(np.uint8)
    return Image.fromarray(pixels).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)


def right(net: Any, part: Part) -> int:
    """How many of a part it gets right."""
    import torch

    with torch.no_grad():
        guesses = net(torch.from_numpy(part.images[:, None] / 16)).argmax(1).numpy()
    return int((guesses == part.labels).sum())


def main() -> None:
    """Train, write, and say how good it is."""
    part, held_out = load()
    if "--validate" in sys.argv[1:]:
        fitted = Part(part.images[:-VALIDATED], part.labels[:-VALIDATED])
        judged = Part(part.images[-VALIDATED:], part.labels[-VALIDATED:])
        print(f"validation: {right(train(fitted), judged)} of {VALIDATED} right")
        return
    net = train(part)
    (HERE / "model.onnx").write_bytes(to_onnx(net))
    np.savez_compressed(HERE / "samples.npz", image=held_out.images[:, None], labels=held_out.labels)
    for digit in range(10):
        first = int(np.flatnonzero(held_out.labels == digit)[0])
        as_picture(held_out.images[first]).save(HERE / f"{digit}.png", optimize=True)
    print(f"held out: {right(net, held_out)} of {HELD_OUT} right")


if __name__ == "__main__":
    main()
