"""What the HTTP door consists of."""

from __future__ import annotations

from meshnode.edge.http import metrics
from meshnode.edge.http.server import Part

PARTS: tuple[Part, ...] = (metrics.routes,)
