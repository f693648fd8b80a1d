"""Which output of a stage feeds which input of the next: found out, and refused, before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import structs

from meshnode.catalog.manifest import Manifest, Tensor
from meshnode.errors import InvalidInput
from meshnode.wire.messages import NodeId, Stage, Submit


def bind(request: Submit, first: Manifest, resolve: Callable[[str], Manifest], find: Callable[[str], NodeId]) -> Submit:
    """The same pipeline with digests for names, and with what is wanted of each stage. Raises InvalidInput,
    ModelNotFound.

    What a stage does not say is found by name; a single output feeds a single input whatever they are called.
    """
    if request.hedge or request.verify:
        raise InvalidInput(
            "a pipeline cannot be hedged or verified",
            hint="submit its models one by one, or leave hedge and verify out",
        )
    manifests = [first, *(resolve(stage.model) for stage in request.then)]
    stages: list[Stage] = []
    for before, after, stage in zip(manifests, manifests[1:], request.then, strict=False):
        node = find(stage.node) if stage.node is not None else None
        stages.append(Stage(after.digest, _pairs(before, after, dict(stage.inputs)), (), node))
    if unknown := [name for name in request.outputs if name not in {it.name for it in manifests[-1].outputs}]:
        last = manifests[-1]
        raise InvalidInput(f"{last.name!r} has no output {unknown[0]!r}", hint=f"it has {_names(last.outputs)}")
    wanted = [_sources(stage) for stage in stages] + [request.outputs]
    then = tuple(structs.replace(stage, outputs=outputs) for stage, outputs in zip(stages, wanted[1:], strict=True))
    return structs.replace(request, then=then, outputs=wanted[0])


def _sources(stage: Stage) -> tuple[str, ...]:
    """The outputs that it takes, each once, in the order of its inputs."""
    return tuple(dict.fromkeys(output for _, output in stage.inputs))


def _pairs(before: Manifest, after: Manifest, given: dict[str, str]) -> tuple[tuple[str, str], ...]:
    outputs = {tensor.name: tensor for tensor in before.outputs}
    inputs = {tensor.name: tensor for tensor in after.inputs}
    between = f"between {before.name!r} and {after.name!r}"
    for name, output in given.items():
        if name not in inputs:
            raise InvalidInput(f"{after.name!r} has no input {name!r}", hint=f"it has {_names(after.inputs)}")
        if output not in outputs:
            raise InvalidInput(f"{before.name!r} has no output {output!r}", hint=f"it has {_names(before.outputs)}")
    pairs = {name: given.get(name, name) for name in inputs if name in given or name in outputs}
    missing = [name for name in inputs if name not in pairs]
    if len(missing) == len(inputs) == len(outputs) == 1:
        pairs, missing = {missing[0]: next(iter(outputs))}, []
    if missing:
        raise InvalidInput(
            f"nothing {between} feeds the input {missing[0]!r}: {before.name!r} brings {_names(before.outputs)}",
            hint=f'name the output: pipeline({before.name!r}, ({after.name!r}, {{"{missing[0]}": "OUTPUT"}}))',
        )
    for name, output in pairs.items():
        if why := _unfit(outputs[output], inputs[name]):
            raise InvalidInput(f"{between}, output {output!r} does not fit input {name!r}: {why}")
    return tuple(pairs.items())


def _unfit(output: Tensor, into: Tensor) -> str:
    """What cannot fit, by what both models declare. Shapes that are not known may."""
    if output.dtype != into.dtype:
        return f"{output.dtype} and {into.dtype}"
    pairs = zip(output.shape, into.shape, strict=False)
    numbers = ((a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    if (output.shape and into.shape and len(output.shape) != len(into.shape)) or any(a != b for a, b in numbers):
        return f"shapes {_shape(output)} and {_shape(into)}"
    return ""


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors) or "nothing"


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join('?' if dim is None else str(dim) for dim in tensor.shape)}]"
