"""Where a worker process begins: confined first, then ONNX Runtime is imported and models are opened.

In this order, because ONNX Runtime starts a thread as it is imported and Landlock holds for threads to come. A driver
of an accelerator opens what it needs at its first run, so there the order is: a run, the filter, and a run again.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from meshnode import collecting, sandbox
from meshnode.config import Sandbox
from meshnode.execution import shelf
from meshnode.sandbox import Confinement, Lack, Profile

FILE_BYTES_MIN = 64 * 1024**2
"""Optimised models are written to memory files too."""
FILES, FILES_SLOT = 64, 8
"""Descriptors open at once: those of a process, and of a slot."""


def main() -> None:
    """`python -m meshnode.execution.confined PROFILE SETTING READABLE -- ARGUMENTS`; the latter are `worker.made`'s."""
    split = sys.argv.index("--")
    (profile, setting, *readable), given = sys.argv[1:split], sys.argv[split + 1 :]
    confinement = None
    if profile in (Profile.FULL, Profile.CALLS):
        confinement = _enter(Profile(profile), Sandbox(setting), readable, given)

    with collecting.loading():
        from meshnode.execution import worker

        it = worker.made(given)
    if confinement is None:
        it.prove()
        confinement = _enter(Profile(profile), Sandbox(setting), readable, given)
    it.prove()
    collecting.settle()
    it.serve_all(int(given[6]), confinement)


def _enter(profile: Profile, setting: Sandbox, readable: list[str], given: list[str]) -> Confinement:
    slots, answer_bytes_max = int(given[6]), int(given[7])
    confinement = sandbox.enter(
        profile,
        readable=[*map(Path, readable), shelf.FOLDER],
        file_bytes_max=max(answer_bytes_max, FILE_BYTES_MIN),
        files_max=FILES + FILES_SLOT * slots,
    )
    if profile is Profile.LIMITS and sys.platform == "linux":
        off = Lack('it is switched off: sandbox = "off"', 'sandbox = "auto" under [execution] in config.toml')
        loose = Lack("the provider did not work behind a filter of system calls")
        confinement = replace(confinement, lacks=(off if setting is Sandbox.OFF else loose,))
    if setting is Sandbox.REQUIRE and confinement.grade != sandbox.GRADES[0]:
        why = "; ".join(lack.why for lack in confinement.lacks)
        sys.exit(f'sandbox = "require" wants grade A and this worker has {confinement.grade}: {why}')
    return confinement


if __name__ == "__main__":
    main()
