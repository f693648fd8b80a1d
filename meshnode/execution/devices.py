"""What this machine is: processor, memory, GPUs. What its GPUs can run is proven elsewhere."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

log = logging.getLogger(__name__)

NVIDIA_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
"""Of a driver on Linux, and of one behind the Windows subsystem."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA GPU by NVML; memory in bytes."""

    name: str
    memory_total: int


@dataclass(slots=True)
class Devices:
    """The machine. `probe` first; then cheap to ask."""

    cpu_model: str = ""
    cores: int = 1
    memory_total: int = 0
    score: float = 0.0
    """Speed of one core by a small matrix product, in GFLOP/s; for a first guess at a peer that never ran a model."""
    gpus: list[Gpu] = field(default_factory=list)
    _handles: list[object] = field(default_factory=list)

    @classmethod
    def probe(cls) -> Devices:
        """Look at the machine; about 20 ms, more where NVML has to be loaded."""
        devices = cls(
            cpu_model=_cpu_model(),
            cores=usable_cores(),
            memory_total=int(psutil.virtual_memory().total),
            score=_score(),
        )
        psutil.cpu_percent(None)  # the first call has nothing to compare with
        devices._find_gpus()
        return devices

    def cpu_load(self) -> float:
        """Share of the processors that was busy since the last call, 0..1."""
        return float(psutil.cpu_percent(None)) / 100

    def memory_available(self) -> int:
        """Bytes that can be had without swapping."""
        return int(psutil.virtual_memory().available)

    def gpu_free(self) -> list[int]:
        """Free bytes of each GPU."""
        if not self._handles:
            return []
        import pynvml

        free = []
        for handle in self._handles:
            with suppress(pynvml.NVMLError):
                free.append(int(pynvml.nvmlDeviceGetMemoryInfo(handle).free))
        return free

    def _find_gpus(self) -> None:
        if sys.platform == "linux" and not any(map(os.path.exists, NVIDIA_SIGNS)):
            return  # importing NVML's bindings costs 15 MB; without a driver they have nothing to say
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # NVML raises its own kinds for: no library, no driver, no device, no rights
            log.debug("no NVIDIA GPU: %s", error)
            return
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                name = pynvml.nvmlDeviceGetName(handle)
                memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
                self.gpus.append(Gpu(name.decode() if isinstance(name, bytes) else str(name), memory))
                self._handles.append(handle)
        except pynvml.NVMLError as error:
            log.warning("the GPUs cannot be asked: %s", error)


def usable_cores() -> int:
    """Physical cores, as far as this process may use them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(physical, allowed))


def _cpu_model() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.lower().startswith(("model name", "hardware", "cpu model")):
                return line.partition(":")[2].strip()[:100]
    return (platform.processor() or platform.machine())[:100]


def _score() -> float:
    """The best of a few products of two 192 x 192 matrices."""
    a = np.ones((192, 192), np.float32)
    best_s = 1.0
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - began)
    return round(2 * 192**3 / best_s / 1e9, 1)
