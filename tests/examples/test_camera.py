"""examples/camera: the command as a person runs it, and its parts with a real agent, a real video and a real broker."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import av
import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
import pytest
from watch.generating import GROUND, NOISE, SAMPLES, Scene, draw, pictures, write
from watch.judging import Verdict, judge, overlap
from watch.main import parser, passed
from watch.reading import Picture, Source
from watch.running import Pace, Seen, Tally, Watch
from watch.seeing import Detector, Digits, Question
from watch.settings import Mqtt, load
from watch.telling import Board, Broker

import meshnode
from meshnode.doors import Layout
from meshnode.errors import ConfigError, MeshError, ModelNotFound
from tests.edge.frigate.plugin import yolo
from tests.edge.living import ask, founder
from tests.examples.conftest import ROOT
from tests.waiting import until

MODEL = ROOT / "models" / "digits" / "model.onnx"
RUN = ROOT / "examples" / "camera" / "run"
SHORT = Scene(seconds=1.0, fps=10)


def test_one_command_shows_that_it_works(broker: str) -> None:
    """It makes the video and the mesh, watches, tells the broker, judges, and ends with exit code 0."""
    words = [sys.executable, str(RUN), "--demo", "--seconds", "2", "--nodes", "2", "--mqtt", broker]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert 0 == done.returncode, done.stderr
    *events, summary = map(json.loads, done.stdout.splitlines())
    assert {"summary"} == {summary["event"]}
    assert (True, 0, 0, 50) == (summary["ok"], summary["wrong"], summary["dropped"], summary["frames"])
    assert summary["accuracy"] >= 0.95
    assert summary["answered"] == len(events)
    assert sorted(it["frame"] for it in events) == [it["frame"] for it in events]
    retained = asyncio.run(_retained(broker, 3))
    config = json.loads(retained["homeassistant/sensor/meshnode_camera_demo/config"])
    assert {"count", "labels"} == set(json.loads(retained[config["state_topic"]]))
    assert "offline" == retained[config["availability_topic"]]


async def _retained(broker: str, count: int) -> dict[str, str]:
    found: dict[str, str] = {}
    async with asyncio.timeout(20), aiomqtt.Client("127.0.0.1", int(broker.rpartition(":")[2])) as client:
        await client.subscribe("#")
        async for message in client.messages:
            found[str(message.topic)] = bytes(message.payload).decode()  # type: ignore[arg-type]
            if len(found) == count:
                return found
    raise AssertionError


@pytest.mark.parametrize(
    ("changed", "ok"),
    [
        ({}, True),
        ({"wrong": 1}, False),
        ({"right": 91}, False),
        ({"read": 9}, False),
        ({"lost": 1}, False),
        ({"answered": 7}, False),
        ({"answered": 7, "realtime": True}, True),
        ({"answered": 0, "empty": 10, "realtime": True}, False),
    ],
)
def test_the_demo_fails_where_it_should(changed: dict[str, Any], ok: bool) -> None:
    """A wrong answer, too few right, a picture that was not read, not answered, or, but for a camera's, dropped."""
    tally = Tally(read=10, empty=2, answered=8, seconds=1.0)
    verdict = Verdict(digits=100, right=95, missed=5, misread=0, made_up=0, wrong=0)
    for key, value in changed.items():
        if hasattr(tally, key):
            setattr(tally, key, value)
        elif hasattr(verdict, key):
            verdict = replace(verdict, **{key: value})
    options = parser().parse_args(["--demo"] + (["--realtime"] if "realtime" in changed else []))
    assert ok is passed(tally, verdict, 10, options)


def test_the_same_seed_gives_the_same_pictures() -> None:
    """With their truth; another seed gives others."""
    once, again, other = (list(pictures(replace(SHORT, seed=seed))) for seed in (3, 3, 4))
    assert [truth for _, truth in once] == [truth for _, truth in again]
    assert all((one == two).all() for (one, _), (two, _) in zip(once, again, strict=True))
    assert [truth for _, truth in once] != [truth for _, truth in other]


def test_every_digit_is_found_where_it_is() -> None:
    """By plain image processing, none twice, and nothing else."""
    seer = Digits()
    count = 0
    for grey, truth in pictures(replace(SHORT, seconds=4.0, fps=5)):
        question = seer.ask(np.repeat(grey[..., None], 3, axis=2))
        boxes = () if question is None else question.boxes
        assert len(boxes) == len(truth)
        for digit in truth:
            assert any(overlap(box, (digit.x, digit.y, digit.side, digit.side)) > 0.5 for box in boxes)
            count += 1
    assert count > 50


def test_digits_are_read_as_well_as_the_model_can(tmp_path: Path) -> None:
    """Found and cut out, of 48 to 72 pixels on a noisy ground, each held-out digit: 98.3 %; the model alone 98.9 %."""
    session, seer = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"]), Digits()
    with np.load(SAMPLES, allow_pickle=False) as kept:
        images, labels = kept["image"][:, 0], kept["labels"]
    rng, right = np.random.default_rng(0), 0
    for image, label in zip(images, labels, strict=True):
        picture = rng.normal(GROUND, NOISE, (100, 120))
        draw(picture, image, 20, 10, int(rng.integers(48, 73)))
        question = seer.ask(np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
        assert question is not None
        assert 1 == len(question.boxes)
        right += int(session.run(None, dict(question.inputs))[0].argmax()) == label
    assert right >= 0.975 * len(labels)


def test_a_live_source_is_opened_anew_when_it_breaks(tmp_path: Path) -> None:
    """Its pictures are counted on; a file ends, and at its own speed when that is asked for."""
    video = tmp_path / "v.mp4"
    assert 10 == write(SHORT, video, tmp_path / "v.jsonl")
    live = Source(str(video), live=True).pictures()
    assert list(range(15)) == [next(live).number for _ in range(15)]
    live.close()  # type: ignore[attr-defined]
    began = time.monotonic()
    paced = list(Source(str(video), realtime=True).pictures())
    assert 10 == len(paced)
    assert time.monotonic() - began >= 0.9
    assert 3 == len(list(Source(str(video), seconds=0.25).pictures()))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["{toml}"], 1, "cannot be read"),
        ([], 2, "give a TOML file, or --demo"),
        (["none.toml"], 1, "none.toml"),
    ],
)
async def test_what_cannot_be_watched_is_said_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    """With an exit code, and no traceback."""
    toml = tmp_path / "it.toml"
    toml.write_text('[source]\npath = "none.mp4"\n[model]\nkind = "digits"\nname = "digits"\n')
    async with founder(tmp_path / "ann") as agent:
        given = ["--home", str(agent.node.home), *(word.format(toml=toml) for word in words)]
        it = await asyncio.create_subprocess_exec(sys.executable, str(RUN), *given)
        assert code == await asyncio.wait_for(it.wait(), 60)
    errors = capfd.readouterr().err
    assert says in errors
    assert "Traceback" not in errors


def test_a_thing_at_the_edge_is_cut_with_dark_around_it() -> None:
    """What lies outside of the picture is no error."""
    rgb = np.full((100, 100, 3), 20, np.uint8)
    rgb[0:40, 0:6] = 250
    rgb[60:100, 94:100] = 250
    question = Digits().ask(rgb)
    assert question is not None
    assert ((-17, 0, 40, 40), (77, 60, 40, 40)) == question.boxes
    assert (2, 1, 8, 8) == question.inputs["image"].shape
    assert Digits().ask(np.full((100, 100, 3), 20, np.uint8)) is None


def seen_by_hand(video: Path) -> list[Seen]:
    """What a mesh would say."""
    session, seer = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"]), Digits()
    found = []
    for picture in Source(str(video)).pictures():
        question = seer.ask(picture.rgb)
        if question is None:
            found.append(Seen(picture, ()))
            continue
        outputs = {"probabilities": session.run(["probabilities"], dict(question.inputs))[0]}
        found.append(Seen(picture, tuple(seer.read(outputs, question)), outputs, "n"))
    return found


def test_an_answer_that_is_another_pictures_is_wrong(tmp_path: Path) -> None:
    """The judge answers each picture itself: exchanged answers, a changed one and one given twice are found."""
    video, truth = tmp_path / "v.mkv", tmp_path / "v.jsonl"
    assert 10 == write(SHORT, video, truth)
    seen = seen_by_hand(video)
    verdict = judge(seen, truth, video, MODEL, Digits())
    assert (0, 0, 0) == (verdict.wrong, verdict.missed, verdict.made_up)
    assert verdict.accuracy >= 0.95
    exchanged = [replace(seen[0], picture=seen[5].picture), *seen[1:5], replace(seen[5], picture=seen[0].picture)]
    assert 2 == judge(exchanged, truth, video, MODEL, Digits()).wrong
    changed = replace(seen[0], outputs={"probabilities": seen[0].outputs["probabilities"] + 0.01})
    assert 1 == judge([changed], truth, video, MODEL, Digits()).wrong
    assert 1 == judge([seen[0], seen[0]], truth, video, MODEL, Digits()).wrong
    blind = judge([replace(it, detections=(), outputs={}) for it in seen], truth, video, MODEL, Digits())
    assert (0.0, sum(bool(it.node) for it in seen)) == (blind.accuracy, blind.wrong)


def fast(count: int) -> Iterator[Picture]:
    """A source that is faster than any mesh; every fifth picture is empty."""
    (grey, _), *_ = pictures(SHORT)
    full, empty = np.repeat(grey[..., None], 3, axis=2), np.full((*grey.shape, 3), 20, np.uint8)
    for number in range(count):
        yield Picture(number, time.monotonic(), number / 25, empty if number % 5 == 4 else full)


class Slow:
    """A model that takes some ten milliseconds a picture, asked about what is not dark."""

    model = "slow"

    def ask(self, rgb: Any) -> Question | None:
        given = {"x": np.ones((1, 64), np.float32), "rounds": np.array(20_000, np.int64)}
        return Question(given) if rgb.max() > 100 else None

    def read(self, outputs: Any, question: Question) -> list[Any]:
        return []


@pytest.mark.parametrize("keep", ["latest", "all"])
async def test_what_the_mesh_cannot_keep_up_with_is_dropped_or_waits(tmp_path: Path, keep: Any) -> None:
    """A camera's pictures are dropped at the source, a file's are all answered; both in order, and all are counted."""
    async with founder(tmp_path / "ann") as agent, meshnode.AsyncClient(agent.node.home) as client:
        await ask(agent.node.home, "model.add", {"path": str(ROOT / "models" / "slow" / "model.onnx"), "name": "slow"})
        told: list[Seen | MeshError] = []
        watch = Watch(Slow(), Pace(keep=keep, concurrency=1, timeout=30.0), told.append)
        await watch.run(client, fast(60))
        tally = watch.tally
        assert (60, 12, 0) == (tally.read, tally.empty, tally.lost)
        assert len(told) == tally.answered + tally.empty
        numbers = [it.picture.number for it in told if isinstance(it, Seen)]
        assert sorted(numbers) == numbers
        assert 0 < tally.answered
        assert (tally.dropped > 0) is (keep == "latest")


async def test_an_outage_is_told_and_does_not_end_the_watch(tmp_path: Path) -> None:
    """Nobody may run it: errors, until the source ends. What cannot be mended by waiting ends it at once."""
    async with founder(tmp_path / "ann") as agent, meshnode.AsyncClient(agent.node.home) as client:
        await ask(agent.node.home, "model.add", {"path": str(MODEL), "name": "digits"})
        told: list[Seen | MeshError] = []
        watch = Watch(Digits(), Pace(keep="all", concurrency=1, zone="nowhere"), told.append)
        await watch.run(client, fast(6))
        assert {"no_node_in_zone"} == {it.code for it in told if isinstance(it, MeshError)}
        assert (0, 1) == (watch.tally.answered, watch.tally.empty)
        with pytest.raises(ModelNotFound):
            await Watch(Digits(model="none"), Pace(), told.append).run(client, fast(6))


async def test_any_detector_by_configuration(tmp_path: Path) -> None:
    """A YOLO-like model and a red video: the left half of each picture, in the picture's own pixels, by its label."""
    video = tmp_path / "red.mp4"
    with av.open(str(video), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        red = np.zeros((96, 128, 3), np.uint8)
        red[..., 0] = 240
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        container.mux(stream.encode())
    (tmp_path / "labels.txt").write_text("door\nwindow\n")
    (tmp_path / "red.toml").write_text(
        f'name = "red"\n[source]\npath = "{video}"\n[stream]\nkeep = "all"\ntimeout = 30\n'
        '[model]\nname = "eyes"\ninput = "images"\nsize = [64, 64]\n[output]\nlabels = "labels.txt"\nthreshold = 0.6\n'
    )
    settings = load(tmp_path / "red.toml")
    async with founder(tmp_path / "ann") as agent, meshnode.AsyncClient(agent.node.home) as client:
        await ask(agent.node.home, "model.add", {"path": str(yolo(tmp_path / "eyes.onnx")), "name": "eyes"})
        told: list[Any] = []
        await Watch(settings.seer, settings.pace, told.append).run(client, settings.source.pictures())
    assert 5 == len(told)
    for it in told:
        (event,) = it.event("red")["detections"]
        assert ("door", [0, 0, 64, 96]) == (event["label"], event["box"])
        assert event["score"] > 0.8


def test_a_letterboxed_picture_has_its_boxes_back_in_place() -> None:
    """The grey above and below, and the scale, are taken out again; colours and numbers are as the model wants them."""
    seer = Detector("m", "x", 64, 64, fit="letterbox", decode=Layout.ROWS, layout="NHWC", colours="bgr", dtype="uint8")
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[..., 0] = 200
    question = seer.ask(rgb)
    assert ((1, 64, 64, 3), np.uint8) == (question.inputs["x"].shape, question.inputs["x"].dtype)
    assert [114, 114, 114] == question.inputs["x"][0, 0, 0].tolist()
    assert [0, 0, 200] == question.inputs["x"][0, 32, 32].tolist()
    rows = np.array([[[16, 8 + 12, 32, 8 + 24, 0.9, 7]]], np.float32)
    (found,) = seer.read({"y": rows}, question)
    assert ("7", (32, 24, 32, 24)) == (found.label, found.box)


def test_a_picture_becomes_the_numbers_that_the_model_wants() -> None:
    """Range, mean and deviation, colour by colour; or grey, as one channel."""
    seer = Detector("m", "x", 8, 8, low=0, high=1, mean=(0.5, 0.25, 0), std=(0.5, 0.5, 1))
    rgb = np.full((8, 8, 3), 255, np.uint8)
    np.testing.assert_allclose([1.0, 1.5, 1.0], seer.ask(rgb).inputs["x"][0, :, 3, 3], rtol=1e-6)
    assert (1, 1, 8, 8) == replace(seer, colours="grey", mean=(), std=()).ask(rgb).inputs["x"].shape


def test_an_answer_of_another_kind_of_model_is_refused() -> None:
    """Never read as digits."""
    with pytest.raises(MeshError, match="does not answer"):
        Digits().read({"probabilities": np.zeros((1, 9), np.float32)}, Question({}, ((0, 0, 8, 8),)))
    with pytest.raises(MeshError, match="outputs of m"):
        Detector("m", "x", 8, 8).read({"a": np.zeros(1), "b": np.zeros(1)}, Question({}))


@pytest.mark.parametrize("name", ["detector.toml", "digits.toml"])
def test_the_files_that_come_along_are_right(name: str) -> None:
    """As they are, and each says which model."""
    assert load(ROOT / "examples" / "camera" / name).seer.model in ("yolo", "digits")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "are needed"),
        ("x = 1", "unknown: x"),
        ("not toml", "detector|toml|Expected"),
        ('[source]\npath="v"\n[model]\ninput="x"\nsize=[1,1]', "needs a name"),
        ('[source]\npath="v"\n[model]\nname="m"\ninput="x"', "size"),
        ('[source]\npath="v"\n[model]\nname="m"\ninput="x"\nsize=[1,1]\nlayout="HW"', "layout"),
        ('[source]\npath="v"\n[model]\nname="m"\ninput="x"\nsize=[1,1]\nmean=[1,2]', "mean"),
        ('[source]\npath="v"\n[model]\nname="m"\ninput="x"\nsize=[1,1]\nwhat=1', "unknown: what"),
        ('[source]\npath="v"\n[model]\nname="m"\ninput="x"\nsize=[1,1]\n[output]\ndecode="ssd"', "one of yolo"),
        ('[source]\npath="v"\n[model]\nname="m"\ninput="x"\nsize=[1,1]\n[output]\nlabels="none.txt"', "labels"),
        ('[source]\npath=1\n[model]\nname="m"\nkind="digits"', "path"),
        ('[source]\n[model]\nname="m"\nkind="digits"', "path"),
        ('[source]\npath="v"\n[model]\nname="m"\nkind="digits"\n[stream]\nkeep="some"', "keep"),
        ('[source]\npath="v"\n[model]\nname="m"\nkind="digits"\n[mqtt]\nhost="x"', "unknown: host"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    """Before anything is opened."""
    (tmp_path / "it.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(tmp_path / "it.toml")


def event(frame: int, *labels: str) -> dict[str, Any]:
    rows = [{"label": label, "score": 0.9, "box": [0, 0, 8, 8]} for label in labels]
    return {"event": "seen", "camera": "yard", "frame": frame, "detections": rows}


async def test_what_is_in_sight_is_among_the_events_of_the_mesh(tmp_path: Path) -> None:
    """Once for as long as it stays, and what it was last, whatever came too fast to be told."""
    async with (
        founder(tmp_path / "ann") as agent,
        meshnode.AsyncClient(agent.node.home) as client,
        Board(client, "yard") as board,
    ):

        def told() -> list[str]:
            return [it["why"] for it in agent.node.events.after(0) if it["event"] == "camera yard"]

        for labels in (("7",), ("7",), (), ("1", "7", "7")):
            board.tell(event(1, *labels))
        await until(lambda: told()[-1:] == ["1 1, 2 7"], "the last is told")
        board.tell(event(2))
        await until(lambda: told()[-1:] == ["nothing in sight"], "it is gone")
        assert len(told()) <= 3


async def test_the_broker_hears_events_and_what_is_seen_now(broker: str) -> None:
    """Each picture with something in it; the state only when it changes; offline when the program goes."""
    heard: list[tuple[str, str]] = []
    async with aiomqtt.Client("127.0.0.1", int(broker.rpartition(":")[2])) as client:
        await client.subscribe("cams/yard/#", qos=1)
        async with Broker(Mqtt(broker, "cams/yard", ""), "yard") as it:
            for told in (event(1, "7"), event(2, "7"), event(3), event(4), event(5, "1", "7", "7")):
                it.tell(told)
            async with asyncio.timeout(20):
                async for message in client.messages:
                    heard.append((str(message.topic)[10:], bytes(message.payload).decode()))  # type: ignore[arg-type]
                    if len(heard) == 7:
                        break
        message = await asyncio.wait_for(anext(aiter(client.messages)), 20)
        assert b"offline" == message.payload
    states = [json.loads(payload) for name, payload in heard if name == "state"]
    assert [{"7": 1}, {}, {"1": 1, "7": 2}] == [it["labels"] for it in states]
    assert [1, 0, 3] == [it["count"] for it in states]
    assert [1, 2, 5] == [json.loads(payload)["frame"] for name, payload in heard if name == "events"]
    assert ["online"] == [payload for name, payload in heard if name == "availability"]


async def test_a_broker_that_is_away_costs_nothing_but_its_events() -> None:
    """The watch goes on, what waits is bounded, and the end does not hang."""
    began = time.monotonic()
    async with Broker(Mqtt("mqtt://127.0.0.1:1"), "yard") as it:
        for number in range(1000):
            it.tell(event(number, "7"))
        assert len(it._waiting) <= 256
    assert time.monotonic() - began < 60
    with pytest.raises(ConfigError, match="is no broker"):
        Broker(Mqtt("localhost"), "yard")
