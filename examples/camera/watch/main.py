"""The command: watch what a file says, or show on a throw-away mesh that it works."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import av

import meshnode
from meshnode.errors import MeshError
from meshnode.testing import Mesh
from watch.generating import Scene, write
from watch.judging import Verdict, judge
from watch.reading import Source
from watch.running import Pace, Seen, Tally, Watch
from watch.seeing import Digits
from watch.settings import Mqtt, Settings, load
from watch.telling import Board, Broker, Lines

MODEL = Path(__file__).resolve().parents[3] / "models" / "digits" / "model.onnx"
FLOOR = 0.92
"""The demo fails below this accuracy. The model reads 98.3 % of such digits; ten seconds of video have some 65."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    it = argparse.ArgumentParser(prog="run", description="Watch a camera or a video file with a model of the mesh.")
    it.add_argument("settings", type=Path, nargs="?", help="a TOML file; detector.toml shows all there is")
    it.add_argument("--demo", action="store_true", help="make a video and a mesh, watch it, and judge what was seen")
    it.add_argument("--home", type=Path, help="of the agent; default: this user's")
    it.add_argument("--mqtt", default="", metavar="URL", help="also tell this broker")
    it.add_argument("--realtime", action="store_true", help="read a file at its own speed, as a camera gives it")
    it.add_argument("--seconds", type=float, default=0.0, help="stop after so much of it; demo: 10")
    it.add_argument("--quiet", action="store_true", help="the summary only")
    it.add_argument("--nodes", type=int, default=3, help="demo: agents in the mesh")
    it.add_argument("--seed", type=int, default=1, help="demo: of the video")
    it.add_argument("--floor", type=float, default=FLOOR, help="demo: the accuracy that is asked for")
    return it


def main(words: list[str] | None = None) -> int:
    """The exit code: 0 ok, 1 failed."""
    options = parser().parse_args(words)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    if options.demo == (options.settings is not None):
        parser().error("give a TOML file, or --demo")
    try:
        return demo(options) if options.demo else plain(options)
    except MeshError as error:
        print(f"{error}\n{error.hint}".strip(), file=sys.stderr)
        return 1
    except (av.FFmpegError, OSError) as error:
        print(f"the source cannot be read: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def plain(options: argparse.Namespace) -> int:
    """What the file says, until the source ends."""
    settings = load(options.settings)
    more = {"seconds": options.seconds} if options.seconds else {}
    source = replace(settings.source, realtime=settings.source.realtime or options.realtime, **more)
    mqtt = replace(settings.mqtt, url=options.mqtt or settings.mqtt.url)
    tally, _ = asyncio.run(watch(replace(settings, source=source, mqtt=mqtt), options.home, quiet=options.quiet))
    Lines().tell(tally.event())
    return 0


async def watch(settings: Settings, home: Path | None, *, quiet: bool, kept: bool = False) -> tuple[Tally, list[Seen]]:
    """To the end; with `kept`, all that was seen."""
    lines, everything = Lines(), []
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(meshnode.AsyncClient(home))
        board = await stack.enter_async_context(Board(client, settings.name))
        broker = None
        if settings.mqtt.url:
            broker = await stack.enter_async_context(Broker(settings.mqtt, settings.name))

        def tell(it: Seen | MeshError) -> None:
            if isinstance(it, MeshError):
                event: dict[str, Any] = {"event": "error", "code": it.code, "message": str(it)}
            else:
                event = it.event(settings.name)
                if kept:
                    everything.append(it)
            board.tell(event)
            if broker is not None:
                broker.tell(event)
            if not quiet and (event["event"] == "error" or event["detections"]):
                lines.tell(event)

        run = Watch(settings.seer, settings.pace, tell)
        await run.run(client, settings.source.pictures())
    return run.tally, everything


def demo(options: argparse.Namespace) -> int:
    """A video whose truth is known, a mesh that is gone afterwards, and a verdict."""
    seer = Digits()
    pace = Pace() if options.realtime else Pace(keep="all", timeout=30.0)
    with tempfile.TemporaryDirectory(prefix="meshnode-camera-") as folder:
        video, truth = Path(folder) / "digits.mp4", Path(folder) / "digits.jsonl"
        count = write(Scene(seconds=options.seconds or 10.0, seed=options.seed), video, truth)
        say(f"a video of {count} pictures of moving digits (seed {options.seed})")
        with Mesh(options.nodes) as mesh:
            with mesh.client() as client:
                client.add_model(MODEL, name=seer.model)
            say(f"a mesh of {options.nodes} agents has the model")
            source = Source(str(video), realtime=options.realtime)
            settings = Settings(source, seer, pace, Mqtt(options.mqtt), "demo")
            tally, seen = asyncio.run(watch(settings, mesh.homes[0], quiet=options.quiet, kept=True))
        verdict = judge(seen, truth, video, MODEL, seer)
    ok = passed(tally, verdict, count, options)
    Lines().tell({**tally.event(), "accuracy": round(verdict.accuracy, 4), **_plain(verdict), "ok": ok})
    return 0 if ok else 1


def passed(tally: Tally, verdict: Verdict, count: int, options: argparse.Namespace) -> bool:
    """Every picture was read and, but for what a camera drops, answered; enough was right, and no answer wrong."""
    say(f"{tally.answered} pictures answered, {tally.empty} with nothing in them, {tally.dropped} dropped, of {count}")
    shares = ", ".join(f"{name} {number}" for name, number in sorted(tally.nodes.items()))
    say(f"answered by {shares or 'nobody'}")
    event = tally.event()
    say(f"{event['fps']} pictures a second; latency p50 {event['latency_ms_p50']}, p99 {event['latency_ms_p99']} ms")
    say(
        f"accuracy {verdict.accuracy:.2%} of {verdict.digits} digits (at least {options.floor:.0%} is asked for): "
        f"{verdict.missed} not found, {verdict.misread} misread, {verdict.made_up} made up"
    )
    say(f"{verdict.wrong} pictures answered wrongly")
    whole = tally.read == count and tally.lost == 0 and (options.realtime or tally.dropped == 0)
    return whole and verdict.wrong == 0 and tally.answered > 0 and verdict.accuracy >= options.floor


def _plain(verdict: Verdict) -> dict[str, int]:
    return {key: getattr(verdict, key) for key in ("digits", "right", "missed", "misread", "made_up", "wrong")}


def say(text: str) -> None:
    """To the person; events have standard output."""
    print(text, file=sys.stderr)
