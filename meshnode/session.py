"""A drop-in for onnxruntime's class: existing code moves to the mesh by changing one line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshnode.blocking import Client
from meshnode.errors import InvalidInput, ModelNotFound
from meshnode.wire.tensors import Array


@dataclass(frozen=True, slots=True)
class NodeArg:
    """An input or output, as onnxruntime describes it: `type` is "tensor(float)"."""

    name: str
    type: str
    shape: list[int | str | None]


class InferenceSession:
    """`InferenceSession("digits")`, or a path to an .onnx file, which is added to the mesh first.

    Options of onnxruntime's class are taken and ignored: where and how a model runs is the mesh's choice.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        sess_options: Any = None,
        providers: Any = None,
        *,
        home: str | os.PathLike[str] | None = None,
        **_: Any,
    ) -> None:
        if not isinstance(model, str | os.PathLike):
            raise InvalidInput(
                f"a model is named, or given as a path to an .onnx file, not as {type(model).__name__}",
                hint="write the bytes to a file and add it: client.add_model(PATH)",
            )
        self._client = Client(home)
        try:
            path = Path(model)
            if path.suffix == ".onnx":
                document = self._client.add_model(path)
            else:
                document = self._client.ask("model.show", model=os.fspath(model))
        except BaseException:
            self._client.close()
            raise
        if not document:
            raise ModelNotFound(f"no model {model!r}")
        self._document = document

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Array]:
        """The outputs as a list, in the order of `output_names` or of the model."""
        names = list(output_names or [tensor["name"] for tensor in self._document["outputs"]])
        result = self._client.infer(self._document["digest"], input_feed, outputs=names)
        return [result[name] for name in names]

    def get_inputs(self) -> list[NodeArg]:
        """The model's inputs."""
        return [_argument(tensor) for tensor in self._document["inputs"]]

    def get_outputs(self) -> list[NodeArg]:
        """The model's outputs."""
        return [_argument(tensor) for tensor in self._document["outputs"]]

    def close(self) -> None:
        """Let go of the agent."""
        self._client.close()

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _argument(tensor: Mapping[str, Any]) -> NodeArg:
    dtype = tensor["dtype"]
    return NodeArg(tensor["name"], dtype if "(" in dtype else f"tensor({dtype})", list(tensor["shape"]))
