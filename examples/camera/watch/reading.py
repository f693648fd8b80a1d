"""Pictures from a camera, a stream or a file, as PyAV (ffmpeg) opens them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from meshnode.errors import ConfigError

log = logging.getLogger(__name__)
RETRY_S, RETRY_MAX_S = 1.0, 30.0
OPEN_S, READ_S = 10.0, 10.0


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture; `captured` is when it was read (monotonic), `at` its time from the first one, in seconds."""

    number: int
    captured: float
    at: float
    rgb: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Source:
    """Where pictures come from.

    Args:
        path: a file, rtsp://… or http://…, or a device such as /dev/video0 (with format v4l2).
        live: it goes on by itself: opened anew when it breaks, instead of ending.
        realtime: a file is read at its own speed, as a camera would give it.
        seconds: stop after so much of it; 0 = never.
    """

    path: str
    format: str = ""
    options: dict[str, str] = field(default_factory=dict)
    live: bool = False
    realtime: bool = False
    seconds: float = 0.0

    def pictures(self) -> Iterator[Picture]:
        """Raises av.FFmpegError when a source that is not live cannot be opened or read, ConfigError."""
        number, wait_s = 0, RETRY_S
        while True:
            try:
                for picture in self._once(number):
                    yield picture
                    number, wait_s = picture.number + 1, RETRY_S
                if not self.live:
                    return
                log.warning("%s ended; it is opened anew", self.path)
            except (av.FFmpegError, OSError) as error:
                if not self.live:
                    raise
                log.warning("%s: %s; tried again in %g s", self.path, error, wait_s)
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)

    def _once(self, number: int) -> Iterator[Picture]:
        more: dict[str, Any] = {"format": self.format} if self.format else {}
        with av.open(self.path, options=dict(self.options), timeout=(OPEN_S, READ_S), **more) as container:
            if not container.streams.video:
                raise ConfigError(f"{self.path} has no pictures in it")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE" if self.live else "AUTO"  # whole pictures at once would each come later
            began, first = time.monotonic(), None
            for frame in container.decode(stream):
                first = frame.time if first is None else first
                at = float((frame.time or 0.0) - (first or 0.0))
                if self.seconds and at >= self.seconds:
                    return
                if self.realtime and (early := began + at - time.monotonic()) > 0:
                    time.sleep(early)
                captured = time.monotonic()
                yield Picture(number, captured, at, frame.to_ndarray(format="rgb24"))
                number += 1
