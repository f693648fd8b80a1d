"""What the HTTP door consists of."""

from __future__ import annotations

from meshnode.edge.dashboard import routes as dashboard
from meshnode.edge.http import metrics, oip
from meshnode.edge.http.server import Part

PARTS: tuple[Part, ...] = (oip.routes, metrics.routes, dashboard.routes)
