"""What holds of every test: how fast a machine is says nothing about the project."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# As the agent's own door does, and before any test loads gRPC: a child between fork and exec was seen to abort in it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
