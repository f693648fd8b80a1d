"""Targets under atheris, guided by coverage: see `scripts/fuzz`.

python -m tests.fuzz.driving SECONDS FOLDER TARGET...

Begins with the seeds and the kept corpus. An input that raises what no reader may raise is written into the corpus,
where every test run replays it, and the run goes on: one defect is told once. At the end the corpus is what is needed
to reach every line that was reached, and the defects. A line of JSON is printed for each target.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import atheris

with atheris.instrument_imports(include=["meshnode", "tomllib"]):
    from tests.fuzz.targets import CORPUS, NAMED, Target
from tests.fuzz.mutating import mutate
from tests.fuzz.test_targets import KEPT_BYTES_MAX

KEPT_MAX = 40
"""Inputs of a target, beside defects."""
SLOW_S = 2.0
"""Of the processor; a longer reading of so few bytes is a defect too."""
DEFECT = "defect-"
TELL_S = 0.5
"""How often the counts are written down: libFuzzer ends its process without a word to Python."""


class Run:
    """Counts what a target did, and keeps what went wrong."""

    def __init__(self, target: Target, told: Path) -> None:
        self.target = target
        self.told = told
        self.told_at = 0.0
        self.count = self.values = 0
        self.defects: dict[str, str] = {}
        self.seeds = list(target.seeds())
        self.rng = Random(1)

    def one(self, data: bytes) -> None:
        """The callback of atheris."""
        self.count += 1
        began = time.process_time()
        try:
            self.values += self.target(data)
        except Exception as error:  # the defects that this is for
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.defect(data, f"{type(error).__name__} at {last.filename}:{last.lineno}: {error!s:.100}")
        if (took_s := time.process_time() - began) > SLOW_S:
            self.defect(data, f"{took_s:.1f} s of the processor")
        if (now := time.monotonic()) - self.told_at > TELL_S:
            self.told_at = now
            self.told.write_text(json.dumps([self.count, self.values, self.defects]))

    def defect(self, data: bytes, text: str) -> None:
        """Keep the first input of each kind, and the shortest."""
        key = hashlib.sha256(text.partition(": ")[0].encode()).hexdigest()[:12]
        path = CORPUS / self.target.name / f"{DEFECT}{key}"
        if len(data) <= KEPT_BYTES_MAX and (not path.exists() or len(data) < path.stat().st_size):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if key not in self.defects:
            self.defects[key] = text
            print(f"{self.target.name}: {text}\n  {path}", flush=True)

    def mutator(self, data: bytes, max_size: int, seed: int) -> bytes:
        """Half of the time libFuzzer's own changes, which know what was compared with what."""
        if seed % 2:
            changed: bytes = atheris.Mutate(data, max_size)
            return changed
        return mutate(data, seed, self.target.form, 1 + seed % 3, self.rng.choice(self.seeds))[:max_size]


def minimised(target: Target, inputs: list[bytes]) -> list[bytes]:
    """The fewest, and of these the shortest, that reach every line of ours, in value or error, that all reach."""
    reached: list[tuple[frozenset[Any], bytes]] = []
    for data in inputs:
        lines: set[Any] = set()

        def trace(frame: FrameType, event: str, _: object, lines: set[Any] = lines) -> Any:
            if event == "call" and "/meshnode/" not in frame.f_code.co_filename:
                return None
            if event == "line":
                lines.add((frame.f_code.co_filename, frame.f_lineno))
            return trace

        sys.settrace(trace)
        try:
            lines.add(target(data))
        except Exception as error:
            lines.add(type(error).__name__)
        finally:
            sys.settrace(None)
        reached.append((frozenset(lines), data))
    kept: list[bytes] = []
    missing = frozenset[Any]().union(*(lines for lines, _ in reached))
    while missing and len(kept) < KEPT_MAX:
        lines, data = max(reached, key=lambda it: (len(it[0] & missing), -len(it[1])))
        kept.append(data)
        missing -= lines
    return kept


def fuzzed(target: Target, seconds: float, folder: Path) -> dict[str, Any]:
    """Run one target; what came of it. Its corpus is written anew."""
    told = folder.with_suffix(".told")
    folder.mkdir(parents=True)
    run = Run(target, told)
    for number, data in enumerate([*run.seeds, *(path.read_bytes() for path in target.kept())]):
        (folder / f"seed-{number}").write_bytes(data)
        run.one(data)
    pid = os.fork()  # what is left to do when libFuzzer has ended its process is done by the parent
    if pid == 0:
        options = (f"-max_total_time={max(1, int(seconds))}", f"-max_len={KEPT_BYTES_MAX}", "-verbosity=0")
        limits = ("-timeout=60", "-rss_limit_mb=4096", "-len_control=0")
        atheris.Setup([sys.argv[0], str(folder), *options, *limits], run.one, custom_mutator=run.mutator)
        atheris.Fuzz()
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    count, values, defects = json.loads(told.read_text())
    if status:
        defects["the process"] = f"it ended with status {status}: too much time or memory; see {folder}"
    found = [path.read_bytes() for path in folder.iterdir()]
    place = CORPUS / target.name
    place.mkdir(parents=True, exist_ok=True)
    for path in target.kept():
        if not path.name.startswith(DEFECT):
            path.unlink()
    for data in minimised(target, [data for data in found if len(data) <= KEPT_BYTES_MAX]):
        (place / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return {"target": target.name, "runs": count, "values": values, "found": len(found), "defects": defects}


def main() -> None:
    """See the module's docstring."""
    seconds, folder = float(sys.argv[1]), Path(sys.argv[2])
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    unwell = False
    for name in sys.argv[3:] or NAMED:
        outcome = fuzzed(NAMED[name], seconds, folder / name)
        unwell |= bool(outcome["defects"])
        print(json.dumps(outcome), flush=True)
    sys.exit(unwell)


if __name__ == "__main__":
    main()
