"""Tensors to bytes and back, and everything that contradicts itself refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from meshnode.errors import InvalidInput, ProtocolError
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import ALIGN, DTYPES, as_array, decode, encode

NATIVE = [dtype for dtype in DTYPES.values() if dtype.type.__module__ == "numpy"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)


@given(st.lists(st.sampled_from(NATIVE).flatmap(lambda d: hnp.arrays(d, SHAPES)), max_size=4))
def test_arrays_come_back_as_they_were(arrays: list[Any]) -> None:
    """Type, shape and every bit survive, and views are aligned."""
    named = {f"t{i}": array for i, array in enumerate(arrays)}

    specs, parts = encode(named)
    back = decode(specs, b"".join(parts))

    assert list(named) == list(back)
    for name, array in named.items():
        assert (array.dtype, array.shape) == (back[name].dtype, back[name].shape)
        assert array.tobytes() == back[name].tobytes()


@pytest.mark.parametrize("word", DTYPES)
def test_every_element_type_has_its_word(word: str) -> None:
    """Each type of the table goes through bytes, also when its rows are strided or reversed."""
    raw = np.random.default_rng(2).integers(0, 2 if word == "bool" else 256, 8 * DTYPES[word].itemsize, dtype=np.uint8)
    array = raw.view(DTYPES[word]).reshape(4, 2)

    for given_array in (array, array[::2, ::-1], array.T):
        specs, parts = encode({"x": given_array})
        assert word == specs[0].dtype
        assert np.ascontiguousarray(given_array).tobytes() == decode(specs, b"".join(parts))["x"].tobytes()


@given(hnp.arrays(object, SHAPES, elements=st.text()))
def test_strings_come_back(array: Any) -> None:
    """Text of any script in any shape."""
    specs, parts = encode({"s": array})
    assert array.tolist() == decode(specs, b"".join(parts))["s"].tolist()


def test_each_tensor_begins_aligned() -> None:
    """Padding stands between tensors and not after the last."""
    specs, parts = encode({"a": np.zeros(3, np.uint8), "b": np.zeros(5, np.uint8)})
    assert ALIGN + 5 == sum(map(len, parts))
    assert (3, 5) == (specs[0].nbytes, specs[1].nbytes)


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        (TensorSpec("x", "float", (2,), 7), bytes(7)),
        (TensorSpec("x", "float", (2,), 8), bytes(7)),
        (TensorSpec("x", "float", (2,), 8), bytes(200)),
        (TensorSpec("x", "object", (1,), 8), bytes(8)),
        (TensorSpec("x", "float", (2**40, 2**40), 8), bytes(8)),
        (TensorSpec("x", "string", (2**40,), 8), bytes(8)),
        (TensorSpec("x", "string", (1,), 5), b"\xff\xff\xff\xff "),
        (TensorSpec("x", "string", (1,), 6), b"\x01\x00\x00\x00ab"),
    ],
)
def test_contradictions_are_refused(spec: TensorSpec, body: bytes) -> None:
    """Shape, type and length must agree with the bytes that came."""
    with pytest.raises(ProtocolError):
        decode((spec,), body)


def test_what_is_no_tensor_is_refused_by_name() -> None:
    """Dates, objects and ragged lists cannot be sent, and the error says which input it was."""
    with pytest.raises(InvalidInput, match="when"):
        encode({"when": np.array(["2026-01-01"], "M8[D]")})
    with pytest.raises(InvalidInput, match="thing"):
        encode({"thing": np.array([object()])})
    with pytest.raises(InvalidInput, match="ragged"):
        as_array([[1], [2, 3]], "ragged")


def test_anything_array_like_is_taken() -> None:
    """Lists, scalars, `__array__` and DLPack."""

    class Like:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.arange(3)

    class Packed:
        def __dlpack__(self, **more: Any) -> Any:
            return np.arange(4.0).__dlpack__()

        def __dlpack_device__(self) -> Any:
            return (1, 0)

    assert [1, 2] == as_array([1, 2]).tolist()
    assert 2.5 == as_array(2.5).item()
    assert [0, 1, 2] == as_array(Like()).tolist()
    assert [0, 1, 2, 3] == as_array(Packed()).tolist()
