"""The document of a request to run a model, and of its answer, over HTTP: JSON, with binary tensors behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from meshnode.edge.openinference import parameters, tensors
from meshnode.edge.openinference.parameters import Wishes
from meshnode.edge.openinference.tensors import Piece
from meshnode.errors import InvalidInput
from meshnode.wire.messages import TensorSpec
from meshnode.wire.tensors import Buffer

JSON_BYTES_MAX = 16 * 1024 * 1024
"""Of the JSON of one request. While its numbers are read nothing else happens (0.3 s of numbers of one digit,
as measured): a larger tensor is sent in binary form."""
JSON_VALUES_MAX = 4 * 1024 * 1024
"""Of an answer in JSON, likewise."""
ID_MAX = 1024
Parameters = dict[str, Any]


class _Input(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct, frozen=True):
    name: str
    parameters: Parameters = {}


class _Request(msgspec.Struct, frozen=True):
    inputs: list[_Input]
    id: str = ""
    parameters: Parameters = {}
    outputs: list[_Output] = []


_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Request:
    """`binary` says of an output, by its name, whether it is wanted in binary form; `rest_binary` of the others."""

    id: str
    inputs: Sequence[Piece]
    outputs: tuple[str, ...]
    wishes: Wishes
    binary: Mapping[str, bool]
    rest_binary: bool


def header_length(text: str | None, body_bytes: int) -> int | None:
    """What `Inference-Header-Content-Length` says. Raises InvalidInput."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= body_bytes):
        raise InvalidInput(
            f"Inference-Header-Content-Length: {text[:40]!r} is no length of the JSON at the beginning of"
            f" {body_bytes} bytes"
        )
    return int(text)


def read(body: Buffer, json_bytes: int | None) -> Request:
    """The request in a body whose first `json_bytes` are JSON; all of them when None. Raises InvalidInput."""
    view = memoryview(body).cast("B")
    head, rest = (view, view[:0]) if json_bytes is None else (view[:json_bytes], view[json_bytes:])
    if len(head) > JSON_BYTES_MAX:
        raise InvalidInput(
            f"the JSON of a request has at most {JSON_BYTES_MAX} bytes, and this has {len(head)}",
            hint="send large tensors in binary form: `binary_data_size` and the bytes behind the JSON",
        )
    try:
        it = _decoder.decode(head)
    except RecursionError:
        raise InvalidInput("the JSON is nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(f"not a request to run a model: {error}") from error
    if len(it.id) > ID_MAX:
        raise InvalidInput(f"an id has at most {ID_MAX} characters, and this has {len(it.id)}")
    inputs, at = [], 0
    for one in it.inputs:
        piece, at = _input(one, rest, at)
        inputs.append(piece)
    if at != len(rest):
        raise InvalidInput(f"{len(rest) - at} bytes are left over behind the tensors")
    binary = {out.name: wants for out in it.outputs if (wants := _binary(out)) is not None}
    if len({out.name for out in it.outputs}) != len(it.outputs):
        raise InvalidInput("an output is asked for twice")
    return Request(
        it.id,
        inputs,
        tuple(out.name for out in it.outputs),
        parameters.read(it.parameters),
        binary,
        _flag(it.parameters, "binary_data_output") or False,
    )


def _input(one: _Input, rest: memoryview, at: int) -> tuple[Piece, int]:
    if one.parameters:
        parameters.of_tensor(one.name, one.parameters)
    size = one.parameters.get("binary_data_size")
    given = memoryview(one.data)
    has_data = len(given) > 0 and bytes(given[:5]) != b"null"
    if size is None:
        if not has_data:
            raise InvalidInput(f"input {one.name[:100]!r} has neither data nor a binary_data_size")
        return tensors.from_json(one.name, one.datatype, one.shape, given), at
    if has_data:
        raise InvalidInput(f"input {one.name[:100]!r} has both data and a binary_data_size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - at:
        raise InvalidInput(
            f"input {one.name[:100]!r}: binary_data_size is {size!r:.40}, and {len(rest) - at} bytes are left",
            hint="Inference-Header-Content-Length says where the JSON ends",
        )
    end = at + size
    return tensors.from_bytes(one.name, one.datatype, one.shape, rest[at:end]), end


def _binary(out: _Output) -> bool | None:
    if not out.parameters:
        return None
    parameters.of_tensor(out.name, out.parameters)
    return _flag(out.parameters, "binary_data")


def _flag(given: Mapping[str, Any], name: str) -> bool | None:
    value = given.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidInput(f"{name}: {value!r:.100} is neither true nor false")


def write(
    request: Request,
    model: str,
    version: int,
    outputs: Sequence[tuple[TensorSpec, Buffer]],
    said: Mapping[str, Any] | None = None,
) -> tuple[list[Buffer], int | None]:
    """The parts of the answer, and how long its JSON is when binary tensors follow it. Raises InvalidInput.

    Args:
        said: parameters of the answer.
    """
    rows, behind = [], []
    plain = [math.prod(spec.shape) for spec, _ in outputs if not request.binary.get(spec.name, request.rest_binary)]
    if sum(plain) > JSON_VALUES_MAX:
        raise InvalidInput(
            f"the answer would have {sum(plain)} values in JSON, and at most {JSON_VALUES_MAX} are sent so",
            hint="ask for it in binary form: `binary_data`, or `binary_data_output` for all",
        )
    for spec, data in outputs:
        row: dict[str, Any] = {
            "name": spec.name,
            "datatype": tensors.output_datatype(spec),
            "shape": spec.shape,
        }
        if request.binary.get(spec.name, request.rest_binary):
            row["parameters"] = {"binary_data_size": spec.nbytes}
            behind.append(data)
        else:
            row["data"] = tensors.to_values(spec, data)
        rows.append(row)
    answer: dict[str, Any] = {"model_name": model, "model_version": str(version), "outputs": rows}
    if request.id:
        answer["id"] = request.id
    if said:
        answer["parameters"] = said
    head = _encoder.encode(answer)
    return [head, *behind], len(head) if behind else None
