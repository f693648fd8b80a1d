"""Which module has which commands, so that only the one that is needed is loaded: a start is mostly imports."""

from __future__ import annotations

from collections.abc import Sequence

COMMANDS = {
    "node": ("up", "logs", "ps", "doctor"),
    "owner": ("pause", "resume", "drain"),
    "mesh": (
        *("invite", "hardware", "join", "status", "events", "members", "ping", "leave", "accept", "revoke", "zone"),
    ),
    "admin": ("admin", "renew", "rotate"),
    "models": ("model",),
    "fleet": ("apply", "blueprint"),
    "policy": ("policy",),
    "publisher": ("publisher",),
    "audit": ("audit",),
    "running": ("run", "why", "bench", "top", "demo"),
    "dashboard": ("dashboard",),
    "service": ("service", "upgrade-check"),
}
"""In the order of the help."""


def needed(words: Sequence[str]) -> Sequence[str]:
    """The modules for a command line whose global options stand in front: all of them where it names no command."""
    skip = False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word == "--home"
            continue
        return [part for part, commands in COMMANDS.items() if word in commands] or list(COMMANDS)
    return list(COMMANDS)
