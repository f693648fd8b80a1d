"""The Python client: tasks in, results out, through the agent of this machine.

`AsyncClient` is the client; `meshnode.blocking.Client` is the same for code without an event loop. Both may be used by
many callers at once. Inputs are anything that numpy takes. A restart of the agent is waited out within a task's time.
"""

from meshnode.client.options import TaskOptions
from meshnode.client.result import Result
from meshnode.client.task import AsyncClient, AsyncModel

__all__ = ["AsyncClient", "AsyncModel", "Result", "TaskOptions"]
