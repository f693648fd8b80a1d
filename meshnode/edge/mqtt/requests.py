"""From a message to a task, and from what became of it to an answer. Pure; no byte of a stranger is believed.

A message names its model in the topic, where its answer goes in the response topic, and whose answer it is in the
correlation data. What it holds is told by its first bytes, not by what it says: .npy and JSON are read here, by
readers that cannot be made to do more; pictures and archives are opened in a process of their own (`decoding`).
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from meshnode.edge import tracing
from meshnode.edge.mqtt.topics import Topics
from meshnode.edge.openinference import document
from meshnode.edge.openinference.tensors import DATATYPES
from meshnode.errors import DeadlineExceeded, InvalidInput, MeshError
from meshnode.wire import tensors
from meshnode.wire.messages import Submitted
from meshnode.wire.tensors import DTYPES, STRING, Array

CORRELATION_BYTES_MAX = 1024
JSON_BYTES_MAX = 1024 * 1024
NPY_HEADER_BYTES_MAX = 4096
RANK_MAX = 32
NPY = b"\x93NUMPY"
PICTURES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"PK\x03\x04", "npz"))
JSON_TYPE, NPY_TYPE, NPZ_TYPE = "application/json", "application/x-npy", "application/x-npz"
ANSWERS = (JSON_TYPE, NPY_TYPE, NPZ_TYPE)
OPTIONS = ("priority", "zone", "node")
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][a-zA-Z][0-9]{1,4})', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), ?\} *\n?"
)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message as the broker delivered it. `again`: the broker says that it did so before."""

    topic: str
    payload: bytes
    qos: int = 1
    mid: int = 0
    again: bool = False
    retained: bool = False
    response: str = ""
    correlation: bytes = b""
    expiry_s: int | None = None
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A message that is a task."""

    task: str
    model: str
    response: str
    correlation: bytes
    deadline_s: float
    payload: bytes
    kind: str
    """npy, json, jpg, png or npz."""
    accept: str
    options: Mapping[str, str] = field(default_factory=dict)
    trace: str = ""
    """The context of its sender's trace."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is published at the response topic."""

    payload: bytes
    content_type: str
    properties: tuple[tuple[str, str], ...]


def task_id(message: Incoming, salt: bytes = b"") -> str:
    """One for all messages that say the same: 32 hex digits.

    Without correlation data nobody can tell a second message from a second delivery of the first: the caller then
    gives a random salt, and each is a task.
    """
    parts = [message.topic.encode(), message.response.encode(), message.correlation, message.payload, salt]
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()[:32]


def check(topics: Topics, message: Incoming) -> str:
    """The model that is asked for. Raises InvalidInput for a message that cannot be answered at all."""
    if not message.response:
        raise InvalidInput("it names no response topic", hint="publish with MQTT 5 and a response topic")
    topics.check_answer(message.response)
    if len(message.correlation) > CORRELATION_BYTES_MAX:
        raise InvalidInput(f"{len(message.correlation)} bytes of correlation data; {CORRELATION_BYTES_MAX} are allowed")
    if message.retained:
        raise InvalidInput("it is retained, and a task is not", hint="publish it without the retain flag")
    model = topics.model_of(message.topic)
    if model is None:
        raise InvalidInput("its topic names no model")
    return model


def parse(topics: Topics, message: Incoming, task: str, *, default_s: float, bytes_max: int) -> Asked:
    """A message that `check` let pass, as a task. Raises InvalidInput, DeadlineExceeded."""
    model = check(topics, message)
    if len(message.payload) > bytes_max:
        raise InvalidInput(f"the message has {len(message.payload)} bytes; {bytes_max} are allowed")
    if message.expiry_s is not None and message.expiry_s <= 0:
        raise DeadlineExceeded("the message expired before it came here")
    kind = kind_of(message.payload)
    given = dict(message.properties)
    accept = given.get("accept", "") or {"npy": NPY_TYPE, "npz": NPZ_TYPE}.get(kind, JSON_TYPE)
    if accept not in ANSWERS:
        raise InvalidInput(f"accept is {accept[:60]!r}", hint=f"one of {', '.join(ANSWERS)}")
    return Asked(
        task=task,
        model=model,
        response=message.response,
        correlation=message.correlation,
        deadline_s=default_s if message.expiry_s is None else float(message.expiry_s),
        payload=message.payload,
        kind=kind,
        accept=accept,
        options={key: given[key] for key in OPTIONS if key in given},
        trace=tracing.parent(message.properties),
    )


def kind_of(payload: bytes) -> str:
    """What a payload is, by its first bytes. Raises InvalidInput."""
    if payload.startswith(NPY):
        return "npy"
    for magic, kind in PICTURES:
        if payload.startswith(magic):
            return kind
    if payload[:64].lstrip()[:1] == b"{":
        return "json"
    raise InvalidInput("the message is no .npy, .npz, .png, .jpg nor JSON", hint="send the bytes of such a file")


# --- tensors in ---


def read_npy(payload: bytes) -> Array:
    """The array of a .npy file, a view of its bytes; nothing is evaluated or unpickled. Raises InvalidInput."""
    wide = payload[6:7] in (b"\x02", b"\x03")
    begin = 12 if wide else 10
    length = int.from_bytes(payload[8:begin], "little")
    if payload[6:7] not in (b"\x01", b"\x02", b"\x03") or length > NPY_HEADER_BYTES_MAX:
        raise InvalidInput("the .npy is of a version that is not known, or its head is too long")
    match = _HEADER.fullmatch(payload, begin, min(begin + length, len(payload)))
    if match is None or begin + length > len(payload):
        raise InvalidInput("the head of the .npy is not as numpy writes it")
    try:
        dtype = np.dtype(match[1].decode())
        shape = tuple(int(part) for part in match[3].split(b",") if part.strip())
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the head of the .npy is not as numpy writes it: {error}") from error
    if dtype.kind not in "biufc" or dtype.itemsize == 0 or len(shape) > RANK_MAX:
        raise InvalidInput(f"a .npy of {dtype} in {len(shape)} dimensions is not taken")
    count = math.prod(shape)
    if count * dtype.itemsize != len(payload) - begin - length:
        raise InvalidInput(
            f"the .npy says {count * dtype.itemsize} bytes of tensor, and {len(payload) - begin - length} came"
        )
    try:
        array = np.frombuffer(payload, dtype, count, begin + length)
        return array.reshape(shape, order="F" if match[2] == b"True" else "C")
    except ValueError as error:  # nothing at all, in more rows of it than numpy can count
        raise InvalidInput(f"the .npy cannot have the shape {shape!s:.200}: {error}") from error


def read_json(payload: bytes) -> dict[str, Array]:
    """The inputs of an Open Inference Protocol request, with flat data. Raises InvalidInput."""
    if len(payload) > JSON_BYTES_MAX:
        raise InvalidInput(f"{len(payload)} bytes of JSON; {JSON_BYTES_MAX} are allowed", hint="send it as .npy")
    arrays: dict[str, Array] = {}
    for spec, data in document.read(payload, None).inputs:
        if spec.name in arrays:
            raise InvalidInput(f"input {spec.name!r} stands twice")
        arrays |= tensors.decode([spec], data)
    return arrays


def only_input(inputs: Sequence[Any], kind: str) -> str:
    """The name of a model's one input, for what names none. Raises InvalidInput."""
    if len(inputs) != 1:
        raise InvalidInput(
            f"the model has {len(inputs)} inputs, and a .{kind} is one", hint="send them as JSON, or by name in a .npz"
        )
    return str(inputs[0].name)


# --- answers out ---


def answer(asked: Asked, submitted: Submitted, outputs: Mapping[str, Array], model: str) -> Answer:
    """The outputs as they are wanted. Raises InvalidInput when they cannot be given so."""
    accept = NPZ_TYPE if asked.accept == NPY_TYPE and len(outputs) != 1 else asked.accept
    if accept == NPY_TYPE:
        name, array = next(iter(outputs.items()))
        payload = _npy(name, array)
    elif accept == NPZ_TYPE:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in outputs.items():
                archive.writestr(f"{name}.npy", _npy(name, array))
        payload = file.getvalue()
    else:
        payload = msgspec.json.encode(
            {
                "model_name": model,
                "id": asked.task,
                "parameters": {
                    "node": submitted.node,
                    "node_name": submitted.name,
                    "provider": submitted.provider,
                    "seconds": round(submitted.seconds, 6),
                    "attempts": len(submitted.attempts),
                },
                "outputs": [_json_output(name, array) for name, array in outputs.items()],
            }
        )
    return Answer(
        payload, accept, (("code", "ok"), ("task", asked.task), ("node", submitted.node), ("name", submitted.name))
    )


def failure(task: str, error: MeshError) -> Answer:
    """An error is an answer with its code: never an empty tensor."""
    document: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.hint:
        document["hint"] = error.hint
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    return Answer(msgspec.json.encode({"error": document}), JSON_TYPE, (("code", error.code), ("task", task)))


def _npy(name: str, array: Array) -> bytes:
    if array.dtype == object:
        raise InvalidInput(f"output {name!r} is text, which .npy cannot hold", hint=f"accept {JSON_TYPE}")
    file = io.BytesIO()
    plain = array.astype(np.float32) if array.dtype.type.__module__ != "numpy" else array
    np.lib.format.write_array(file, np.asanyarray(plain), allow_pickle=False)
    return file.getvalue()


def _json_output(name: str, array: Array) -> dict[str, Any]:
    foreign = array.dtype.type.__module__ != "numpy" and array.dtype != object
    plain = array.astype(np.float32) if foreign else array
    if plain.dtype.kind == "c":
        raise InvalidInput(f"output {name!r} is complex, which JSON cannot hold", hint=f"accept {NPY_TYPE}")
    word = STRING if plain.dtype == object else next(w for w, d in DTYPES.items() if d == plain.dtype)
    flat = plain.reshape(-1).tolist()
    if plain.dtype.kind == "f":
        flat = [value if math.isfinite(value) else _not_a_number(value) for value in flat]
    return {"name": name, "datatype": DATATYPES[word], "shape": list(array.shape), "data": flat}


def _not_a_number(value: float) -> str:
    """JSON has no such numbers."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
