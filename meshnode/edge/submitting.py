"""Tasks from programs of other kinds: one way in for the doors of HTTP, gRPC, MQTT and whatever else brings tensors."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from meshnode.edge.node import Node
from meshnode.errors import InvalidInput, PermissionDenied
from meshnode.links.link import Reply
from meshnode.wire import tensors
from meshnode.wire.messages import Submit, Submitted
from meshnode.wire.tensors import Array, Buffer


def check_belongs(node: Node) -> None:
    """Raises the error that keeps a node without a mesh, or in quarantine, from giving tasks."""
    if (out := node.keeper.out) is not None:
        raise out
    if why := node.keeper.quarantine:
        raise PermissionDenied(
            f"this node is in quarantine: {why}", hint="an admin's `meshnode accept` of it lets it in"
        )


async def infer(
    node: Node, model: str, inputs: Mapping[str, Array], /, *, timeout_s: float, **options: Any
) -> tuple[Submitted, dict[str, Array]]:
    """One task and its outputs; `options` are fields of `Submit`, of which those that are None are left out.

    The task ends when its caller is cancelled. Raises MeshError; InvalidInput also for options out of their range.
    """
    check_belongs(node)
    specs, parts = tensors.encode(inputs)
    given = {key: value for key, value in options.items() if value is not None}
    fields = {"task": secrets.token_hex(16), "model": model, "inputs": specs, "deadline_s": timeout_s, **given}
    try:
        request = msgspec.convert(fields, Submit)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the task: {error}") from error
    reply = await node.dispatcher.submit(request, _whole(parts))
    answer = cast(Submitted, reply.message)
    return answer, tensors.decode(answer.outputs, _body(reply))


def _whole(parts: Sequence[Buffer]) -> memoryview:
    """One view; of one tensor without a copy."""
    return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))


def _body(reply: Reply) -> Buffer:
    body = reply.body
    return body if isinstance(body, bytes | bytearray | memoryview) else _whole(body)
