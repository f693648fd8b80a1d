"""A picture as a model's input.

The rule: opened with its orientation applied; converted to as many channels as the model's input has (1 greyscale, 3
RGB, 4 RGBA); resized with a bilinear filter to the input's height and width where these are fixed; a uint8 input gets
0..255, a float input that range mapped linearly to `meshnode.image.range` of the model's metadata ("0,1" when it has
none); the layout is `meshnode.image.layout` (NCHW or NHWC), or follows from which axis is 1, 3 or 4; a batch axis of
1 is put in front.

Never in the agent: a picture is opened by the command of a person, or in a confined process.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from meshnode.errors import InvalidInput
from meshnode.wire.tensors import DTYPES, Array

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Tensor = Mapping[str, Any]
"""A model's input as its document has it: name, dtype, shape."""


def image_array(data: bytes, tensor: Tensor, metadata: Mapping[str, str], file: str) -> Array:
    """An image as the input of a model, by the rule of this module. Raises InvalidInput."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    shape = list(tensor["shape"])
    batch = len(shape) == 4
    layout = metadata.get("meshnode.image.layout", "").removeprefix("N") or _layout(shape[1:] if batch else shape)
    if len(shape) not in (3, 4) or layout not in ("CHW", "HWC"):
        raise InvalidInput(f"input {tensor['name']!r} {shape} is no image", hint="give it as .npy")
    dims = dict(zip(layout, shape[1:] if batch else shape, strict=True))
    channels = dims["C"] if isinstance(dims["C"], int) else 3
    if channels not in MODES:
        raise InvalidInput(f"input {tensor['name']!r} has {channels} channels, and an image has 1, 3 or 4")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opening = Image.open(io.BytesIO(data))
        with opening as opened:
            picture = _eight_bit(ImageOps.exif_transpose(opened)).convert(MODES[channels])
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{file} is not an image that can be read", hint="give a .png or a .jpg") from error
    except Exception as error:  # what Pillow's readers raise on damaged files has no end: SyntaxError, struct.error, …
        raise InvalidInput(f"{file} is not an image that can be read: {error}") from error
    width = dims["W"] if isinstance(dims["W"], int) else picture.width
    height = dims["H"] if isinstance(dims["H"], int) else picture.height
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture).reshape(height, width, channels)
    array = _scaled(pixels, tensor, metadata.get("meshnode.image.range", "0,1"))
    if layout == "CHW":
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array[None] if batch else array)


def _eight_bit(picture: Any) -> Any:
    """16-bit greyscale as 8-bit: Pillow's own conversion would cut off everything above 255."""
    if not picture.mode.startswith("I"):
        return picture
    from PIL import Image

    return Image.fromarray((np.asarray(picture).astype(np.uint32).clip(0, 65535) // 257).astype(np.uint8))


def _layout(dims: list[Any]) -> str:
    """Which axis is the channels'."""
    if len(dims) == 3:
        if dims[0] in MODES:
            return "CHW"
        if dims[2] in MODES:
            return "HWC"
    return ""


def _scaled(pixels: Array, tensor: Tensor, span: str) -> Array:
    if tensor["dtype"] == "uint8":
        return pixels
    dtype = DTYPES.get(tensor["dtype"])
    if dtype is None or tensor["dtype"] not in ("float", "double", "float16", "bfloat16"):
        raise InvalidInput(f"input {tensor['name']!r} is {tensor['dtype']}, and an image gives uint8 or floats")
    try:
        low, high = (float(part) for part in span.split(","))
    except ValueError as error:
        raise InvalidInput(f"the model's metadata names no image range: {span!r}") from error
    return (low + pixels.astype(np.float32) * ((high - low) / 255)).astype(dtype)
