"""Files as inputs and outputs: nothing is changed on the way without being refused."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from meshnode.cli import files
from meshnode.errors import InvalidInput
from meshnode.wire.tensors import DTYPES

HOME = Path(__file__).parent.parent.parent / "models" / "digits"


def model(dtype: str, shape: list[Any], **metadata: str) -> dict[str, Any]:
    return {
        "inputs": [{"name": "x", "dtype": dtype, "shape": shape}],
        "metadata": {f"meshnode.image.{key}": value for key, value in metadata.items()},
    }


def read_json(dtype: str, value: Any, folder: Path) -> np.ndarray[Any, Any]:
    path = folder / "x.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return files.read_inputs(model(dtype, []), str(path), {})["x"]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", [1, -(2**63), 2**63 - 1]),
        ("uint64", [0, 2**64 - 1]),
        ("int32", [[1, 2], [3, 4]]),
        ("uint8", [255, 1.0]),
        ("int4", [-8, 7]),
        ("uint4", [0, 15]),
        ("bool", [True, False]),
        ("float", [1, 0.5, 2.0**100]),
        ("float16", [0.5, 65504]),
        ("bfloat16", [1.5, -2]),
        ("float8e4m3fn", [448, -1.5]),
        ("string", ["a", "ü", ""]),
        ("float", 3.0),
        ("float", [[], []]),
    ],
)
def test_json_is_cast_to_the_inputs_type(dtype: str, value: Any, tmp_path: Path) -> None:
    """Values that the type holds arrive as they are."""
    array = read_json(dtype, value, tmp_path)

    assert array.shape == np.array(value, object).shape
    if dtype != "string":
        assert DTYPES[dtype] == array.dtype
    plain = array.astype(np.float64).tolist() if array.dtype.kind == "V" else array.tolist()
    assert value == plain


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", [1.5]),
        ("int64", [2**63]),
        ("int64", ["1"]),
        ("int64", [True]),
        ("uint64", [-1]),
        ("uint8", [256]),
        ("int4", [8]),
        ("uint4", [-1]),
        ("bool", [1]),
        ("float", [True]),
        ("float", [1e39]),
        ("float", [2**24 + 1]),
        ("float", [None]),
        ("float", [[1.0], [1.0, 2.0]]),
        ("float", {"y": [1.0]}),
        ("float16", [70000]),
        ("float8e4m3fn", [1000.0]),
        ("string", [1]),
        ("complex64", [1.0]),
        ("float", "not json"),
        ("float", ""),
    ],
)
def test_json_that_the_type_cannot_hold_is_refused(dtype: str, value: Any, tmp_path: Path) -> None:
    """No silent change: InvalidInput names the input."""
    with pytest.raises(InvalidInput, match=r"x"):
        read_json(dtype, value, tmp_path)


def test_json_by_names_fills_several_inputs(tmp_path: Path) -> None:
    """{name: lists} gives every input; one unnamed list for two inputs is refused with the way to name them."""
    two = {"inputs": [{"name": n, "dtype": "float", "shape": []} for n in "ab"], "metadata": {}}
    path = tmp_path / "in.json"
    path.write_text('{"a": [1], "b": [2]}')
    assert {"a": [1.0], "b": [2.0]} == {n: v.tolist() for n, v in files.read_inputs(two, str(path), {}).items()}

    path.write_text("[1]")
    with pytest.raises(InvalidInput) as caught:
        files.read_inputs(two, str(path), {})
    assert "-i a=FILE -i b=FILE" in caught.value.hint


@pytest.mark.parametrize("word", sorted(DTYPES))
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_every_type_goes_through_numpys_files(word: str, suffix: str, tmp_path: Path) -> None:
    """Written and read again it is the same to the bit, also where numpy's files do not know the type."""
    array = np.array([0, 1, 1, 0]).astype(DTYPES[word]).reshape(2, 2)
    path = tmp_path / f"x{suffix}"

    files.write_outputs(path, {"x": array})
    again = files.read_inputs(model(word, [2, 2]), str(path), {})["x"]

    assert array.dtype == again.dtype
    assert array.tobytes() == again.tobytes()


def test_an_output_may_have_any_name(tmp_path: Path) -> None:
    """Also "file", which numpy's own function cannot write; strings and scalars too."""
    outputs = {"file": np.float32(1).reshape(()), "a/b": np.array(["x", "yy"], object)}
    files.write_outputs(tmp_path / "o.npz", outputs)
    loaded = np.load(tmp_path / "o.npz")
    assert 1.0 == float(loaded["file"])
    assert ["x", "yy"] == loaded["a/b"].tolist()


def test_not_a_number_survives_json(tmp_path: Path) -> None:
    """NaN and infinities are written as strings, and read back."""
    array = np.array([[1.0, math.nan], [math.inf, -math.inf]], np.float32)
    assert [[1.0, "NaN"], ["Infinity", "-Infinity"]] == files.to_json(array)
    again = read_json("float", files.to_json(array), tmp_path)
    assert array.tobytes() == again.tobytes()
    assert "NaN" == files.to_json(np.array(math.nan))
    assert [[1.0, -2.0]] == files.to_json(np.array([1 - 2j]))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    """.npy files of objects are refused: they are pickles."""
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InvalidInput):
        files.read_inputs(model("string", [1]), str(tmp_path / "x.npy"), {})


# --- images ---


def picture(mode: str, size: tuple[int, int], colour: Any, suffix: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, suffix, **options)
    return buffer.getvalue()


def as_input(data: bytes, dtype: str, shape: list[Any], **metadata: str) -> np.ndarray[Any, Any]:
    described = model(dtype, shape, **metadata)
    return files.image_array(data, described["inputs"][0], described["metadata"], "x.png")


@pytest.mark.parametrize(
    ("shape", "metadata", "expected"),
    [
        (["n", 3, 4, 6], {}, (1, 3, 4, 6)),
        (["n", 4, 6, 3], {}, (1, 4, 6, 3)),
        ([1, 1, 8, 8], {}, (1, 1, 8, 8)),
        ([3, 4, 6], {}, (3, 4, 6)),
        (["n", 3, "h", "w"], {}, (1, 3, 5, 10)),
        (["n", 3, 4, 3], {"layout": "NHWC"}, (1, 3, 4, 3)),
        (["n", "h", "w", 4], {}, (1, 5, 10, 4)),
        (["n", "c", 4, 6], {"layout": "NCHW"}, (1, 3, 4, 6)),
    ],
)
def test_the_layout_follows_the_model(shape: list[Any], metadata: dict[str, str], expected: tuple[int, ...]) -> None:
    """Metadata or the channel axis tells the layout; fixed sizes are resized to, symbolic ones keep the picture's."""
    assert expected == as_input(picture("RGB", (10, 5), "red"), "float", shape, **metadata).shape


def test_values_are_scaled_to_the_models_range() -> None:
    """uint8 as it is, floats to the range in the metadata, 0..1 when there is none."""
    white = picture("RGB", (2, 2), (255, 0, 51))
    shape = [1, 3, 2, 2]
    assert [255, 0, 51] == as_input(white, "uint8", shape)[0, :, 0, 0].tolist()
    assert np.allclose([1, 0, 0.2], as_input(white, "float", shape)[0, :, 0, 0])
    assert np.allclose([1, -1, -0.6], as_input(white, "float", shape, range="-1,1")[0, :, 0, 0])
    assert np.dtype("<f2") == as_input(white, "float16", shape).dtype
    for dtype, metadata in (("int64", {}), ("float", {"range": "bright"})):
        with pytest.raises(InvalidInput):
            as_input(white, dtype, shape, **metadata)


def test_orientation_depth_and_palette_are_seen_to() -> None:
    """EXIF orientation is applied, 16-bit greyscale keeps its shades, palettes become colours."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert (1, 3, 9, 4) == as_input(picture("RGB", (9, 4), "red", "JPEG", exif=exif), "float", [1, 3, "h", "w"]).shape
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2), 32896, np.uint16)).save(buffer, "PNG")
    assert [128] == np.unique(as_input(buffer.getvalue(), "uint8", [1, 1, 2, 2])).tolist()
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 0, 7])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert [255, 0, 7] == as_input(buffer.getvalue(), "uint8", [1, 3, 1, 1])[0, :, 0, 0].tolist()


@pytest.mark.parametrize("data", [b"", b"\x89PNG nothing", picture("RGB", (4, 4), "red")[:45]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    """Truncated and wrong files are InvalidInput."""
    with pytest.raises(InvalidInput):
        as_input(data, "float", [1, 3, 4, 4])


def test_a_model_that_takes_no_picture_is_told_so() -> None:
    """A 2-d input, or one whose channels cannot be told, is refused with what to do."""
    for shape in (["n", 784], ["n", 5, 6, 7], [1, 2, 3, 4, 5]):
        with pytest.raises(InvalidInput):
            as_input(picture("L", (4, 4), 1), "float", shape)


def test_the_digits_pictures_are_what_the_model_saw() -> None:
    """models/digits/3.png becomes a picture of the right shape and range by the rule."""
    array = as_input((HOME / "3.png").read_bytes(), "float", ["n", 1, 8, 8], layout="NCHW", range="0,16")
    assert (1, 1, 8, 8) == array.shape
    assert 0 <= array.min() < 4
    assert 10 < array.max() <= 16
