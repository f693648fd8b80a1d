"""Which accelerators are tried, and what ONNX Runtime is told of each (pure).

That one is listed here, or by ONNX Runtime, says nothing of whether it works: each has a worker of its own, which has
to run something on it before anybody hears of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnode.config import Execution
from meshnode.execution.rules import CPU


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One provider of ONNX Runtime.

    Args:
        options: ONNX Runtime's own, as texts.
        nvidia: worth a try only where a GPU of theirs is seen.
        unasked: tried where it is installed; else only when the settings name it.
        fix: what to do where it is there and no run on it works.
    """

    provider: str
    options: dict[str, str] = field(default_factory=dict)
    nvidia: bool = False
    unasked: bool = True
    fix: str = ""


TABLE = (
    # It is to compute floats as floats, and not to hoard memory.
    Accelerator(
        "CUDAExecutionProvider",
        {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
        nvidia=True,
        fix="install CUDA's libraries: pip install 'meshnode[cuda]'",
    ),
    # It builds an engine for each shape of input, for minutes.
    Accelerator("TensorrtExecutionProvider", nvidia=True, unasked=False),
    Accelerator("CoreMLExecutionProvider"),
    Accelerator("DmlExecutionProvider"),
    Accelerator("OpenVINOExecutionProvider"),
)
"""In the order in which they are started; those that the settings name beside them are tried as they are."""
_KNOWN = {it.provider: it for it in TABLE}


def known(provider: str) -> Accelerator:
    """Its row, or one that says nothing."""
    return _KNOWN.get(provider) or Accelerator(provider)


def worth_a_try(available: Sequence[str], settings: Execution, *, nvidia: bool) -> list[str]:
    """Of what ONNX Runtime has: what the settings name, or what is tried unasked."""
    if not settings.gpu:
        return []
    wanted = settings.providers or [it.provider for it in TABLE if it.unasked]
    return [it for it in wanted if it in available and it != CPU and (nvidia or not known(it).nvidia)]
