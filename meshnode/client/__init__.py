"""The Python client: tasks in, results out, through the agent of this machine.

`AsyncClient` is the client; `meshnode.blocking.Client` is the same for code without an event loop. Both may be used by
many callers at once. Inputs are anything that numpy takes. A restart of the agent is waited out within a task's time.
"""

from meshnode.client.model import AsyncModel
from meshnode.client.options import TaskOptions
from meshnode.client.pipeline import AsyncPipeline, PipelineOptions, Stage
from meshnode.client.result import Result, StageResult
from meshnode.client.task import AsyncClient

__all__ = [
    "AsyncClient",
    "AsyncModel",
    "AsyncPipeline",
    "PipelineOptions",
    "Result",
    "Stage",
    "StageResult",
    "TaskOptions",
]
