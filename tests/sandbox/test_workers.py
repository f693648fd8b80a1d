"""Real workers: what somebody who has taken one over can do, what it must still be able to do, and what it says."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import psutil
import pytest

from meshnode import sandbox
from meshnode.config import Execution as Settings
from meshnode.config import Sandbox
from meshnode.errors import WorkerCrashed
from meshnode.execution import process
from meshnode.execution.devices import Devices
from meshnode.execution.rules import CPU, Rules
from meshnode.execution.shelf import DRAFT
from meshnode.execution.supervisor import Execution
from meshnode.sandbox import Lack, Profile, landlock, seccomp
from tests.execution.making import KILLS, MODELS, bundled, done, endless, fragile, ready, run
from tests.execution.test_graphs import X, deep
from tests.waiting import until

IMAGE = {"image": np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8) % 17}
ROOT = Path(__file__).resolve().parents[2]
LANDLOCK, SECCOMP = 444, seccomp.SPECIAL["seccomp"][0 if seccomp.machine() == "x86_64" else 1]


def grade_here() -> str:
    """What this machine allows."""
    try:
        landlock.version()
    except OSError:
        return "B"
    return "A"


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this sandbox")
full = pytest.mark.skipif(sys.platform == "linux" and grade_here() != "A", reason="this kernel has no Landlock")


@dataclass
class Home:
    """A home with secrets, models and a worker's folder."""

    path: Path
    models: Path = field(init=False)

    def __post_init__(self) -> None:
        self.models = self.path / "models" / "digits"
        self.models.mkdir(parents=True)
        (self.models / "model.onnx").write_bytes((MODELS / "digits" / "model.onnx").read_bytes())
        (self.path / "node.key").write_text("secret")

    def execution(self, **more: Any) -> Execution:
        settings = Settings(**({"concurrency": 2, "arena_bytes": 8 << 20, "gpu": False} | more))
        devices = Devices(cores=2, memory_total=psutil.virtual_memory().total)
        readable = (self.path / "models", MODELS)
        return Execution(settings, devices, folder=self.path / "worker", models=readable, changed=lambda: None)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def instead(monkeypatch: pytest.MonkeyPatch, module: str, *first: str, fds: tuple[int, ...] = ()) -> None:
    """Workers begin with this module, which goes on with the ordinary one."""
    start = sandbox.start

    def started(ordinary: str, arguments: Any, **named: Any) -> Any:
        given = [*first, *([ordinary] if module.endswith("denied") else []), *arguments]
        return start(module, given, **(named | {"fds": (*named["fds"], *fds)}))

    monkeypatch.setattr(process.sandbox, "start", started)


def statuses(pid: int) -> list[dict[str, str]]:
    """What the kernel says of each thread of a process."""
    texts = [(thread / "status").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
    return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]


@full
async def test_somebody_who_has_taken_a_worker_over(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads nothing but models, changes nothing, reaches nobody, starts nothing; and the worker still works."""
    model = home.models / "model.onnx"
    before = model.read_bytes(), model.stat().st_mode
    reader, writer = os.pipe()
    instead(monkeypatch, "tests.sandbox.intruder", str(writer), str(home.path), str(home.models), fds=(writer,))
    async with ready(home.execution()) as it:
        os.close(writer)
        tried = json.loads(os.read(reader, 1 << 16))
        os.close(reader)
        denied = {"EACCES", "EPERM"}
        assert {} == {name: end for name, end in tried["files"].items() if end not in denied}
        system = {name: end for name, end in tried["system"].items() if end not in denied}
        assert {"clone3": "ENOSYS", "raise a limit": "not allowed to raise maximum limit"} == system
        assert {} == {name: end for name, end in tried["needed"].items() if end != "done"}
        assert before == (model.read_bytes(), model.stat().st_mode)
        assert (1, 10) == (await run(it, bundled("digits"), IMAGE))["probabilities"].shape


@full
async def test_a_worker_says_how_it_is_confined(home: Home) -> None:
    """Grade A where the kernel has all; every thread of it is behind the filter, ONNX Runtime's own among them."""
    async with ready(home.execution()) as it:
        confinement = it.confinement[CPU]
        assert ("A", ()) == (confinement.grade, confinement.lacks)
        assert [f"files (Landlock {landlock.version()})", "system calls (seccomp)", "limits"] == [*confinement.holds]
        await run(it, bundled("digits"), IMAGE)
        life = it._own[0].process.life
        assert life is not None
        threads = statuses(life.process.pid)
        assert len(threads) >= 4
        assert {("2", "1")} == {(said["Seccomp"], said["NoNewPrivs"]) for said in threads}
        limits = psutil.Process(life.process.pid).rlimit
        assert (0, 0) == limits(resource.RLIMIT_CORE)
        assert (80, 80) == limits(resource.RLIMIT_NOFILE), "64, and 8 for each of two slots"
        assert (1 << 30, 1 << 30) == limits(resource.RLIMIT_FSIZE), "the largest answer"


@full
async def test_a_probe_runs_in_a_confined_worker(home: Home, tmp_path: Path) -> None:
    """A model that is new is opened by the same worker; one outside of the models folder cannot be read by it."""
    outside = tmp_path / "outside.onnx"
    outside.write_bytes((home.models / "model.onnx").read_bytes())
    async with ready(home.execution()) as it:
        assert "A" == it.confinement[CPU].grade
        assert ("image",) == tuple(info.name for info in (await it.probe(home.models / "model.onnx")).inputs)
        with pytest.raises(Exception, match=r"(?i)permission denied|failed"):
            await it.probe(outside)


async def test_results_are_those_without_a_sandbox(home: Home) -> None:
    """With two threads and two slots, on the bundled models, bit by bit."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 2
    x = {"x": np.random.default_rng(1).standard_normal((1, 150_000)).astype(np.float32)}
    async with ready(home.execution(threads=2)) as it:
        for name, inputs in (("digits", IMAGE), ("echo", x)):
            alone = ort.InferenceSession(MODELS / name / "model.onnx", settings)
            expected = dict(zip((o.name for o in alone.get_outputs()), alone.run(None, inputs), strict=True))
            results = await asyncio.gather(*(run(it, bundled(name), inputs) for _ in range(8)))
            for result in results:
                for output, array in expected.items():
                    np.testing.assert_array_equal(array, result[output])


async def test_a_confined_worker_that_crashes_is_replaced_by_one(home: Home) -> None:
    """A signal of its own making, and one that was stuck: what follows is confined too."""
    async with ready(home.execution(cancel_grace_s=0.2)) as it:
        grade, models = it.confinement[CPU].grade, home.path / "models"
        with pytest.raises(WorkerCrashed, match="SIGFPE"):
            await done(it, fragile(models), {"x": KILLS})
        async with asyncio.timeout(60):
            await it.ready()
        assert grade == it.confinement[CPU].grade
        with pytest.raises(Exception, match=r"(?i)time|deadline"):
            await done(it, endless(models), {"x": np.float32(2)}, within_s=0.5)
        assert (1, 10) == (await run(it, bundled("digits"), IMAGE))["probabilities"].shape
        assert grade == it.confinement[CPU].grade


async def test_a_worker_ends_with_its_agent(home: Home) -> None:
    """It cannot be signalled by what it confines, and is by the kernel."""
    code = (
        "import asyncio, sys; from pathlib import Path; from tests.sandbox.test_workers import Home, ready\n"
        "async def main():\n"
        "    async with ready(Home(Path(sys.argv[1])).execution()) as it:\n"
        "        print(it._own[0].process.life.process.pid, flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    given = (sys.executable, "-c", code, str(home.path / "other"))
    agent = await asyncio.create_subprocess_exec(*given, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert agent.stdout is not None
    worker = int(await asyncio.wait_for(agent.stdout.readline(), 60))
    assert psutil.pid_exists(worker)
    agent.send_signal(signal.SIGKILL)
    await agent.wait()
    await until(lambda: not psutil.pid_exists(worker), "the worker is gone")


async def test_a_graph_is_kept_by_the_agent(home: Home) -> None:
    """A worker that cannot write offers it; the next one reads it, and the results are the same."""
    model = deep(home.path / "models")
    graphs = home.path / "worker" / "graphs"
    async with ready(home.execution()) as it:
        first = await run(it, model, X)
        kept = grade_here() == "A"  # else no file is opened to be written, not even of memory
        if kept:
            entry = await until(
                lambda: next((it for it in graphs.iterdir() if not it.name.startswith(DRAFT)), None), "it is kept"
            )
            os.utime(entry, (1000, 1000))
        it._own[0].process.kill("the test wants another one")
        await until(lambda: it._own[0].process.life is None, "it is gone")
        async with asyncio.timeout(60):
            await it.ready()
        np.testing.assert_array_equal(first["y"], (await run(it, model, X))["y"])
        if kept:
            await until(lambda: entry.stat().st_mtime > 1000, "it was used")


# --- where less can be had ---


async def test_a_worker_with_a_driver_of_its_own(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an accelerator's, here with the CPU: the filter comes after a run, for the threads that are there too."""
    ordinary = Rules.arguments
    monkeypatch.setattr(Rules, "arguments", lambda it, *given: [Profile.DEVICES, *ordinary(it, *given)[1:]])
    async with ready(home.execution()) as it:
        confinement = it.confinement[CPU]
        assert ("B", ("system calls (seccomp)", "limits")) == (confinement.grade, confinement.holds)
        assert (1, 10) == (await run(it, bundled("digits"), IMAGE))["probabilities"].shape
        life = it._own[0].process.life
        assert life is not None
        assert {("2", "1")} == {(said["Seccomp"], said["NoNewPrivs"]) for said in statuses(life.process.pid)}


@full
async def test_code_in_an_unforeseen_place(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restricted workers cannot import it and die: after two of them one starts that may read, and says so."""
    monkeypatch.setattr(process, "RESTART_MAX_S", 0.1)
    instead(monkeypatch, "tests.sandbox.elsewhere", str(home.path))
    it = home.execution()
    await it.start()
    try:
        await until(lambda: it.confinement, "one became ready")
        assert 2 == it._own[0].process.deaths
        confinement = it.confinement[CPU]
        assert ("B", ("system calls (seccomp)", "limits")) == (confinement.grade, confinement.holds)
        assert "no worker started with files restricted" in confinement.lacks[0].why
        assert (1, 10) == (await run(it, bundled("digits"), IMAGE))["probabilities"].shape
    finally:
        await it.stop()


async def test_an_accelerator_that_the_filter_breaks(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs by itself and not behind the filter: the next worker has limits only, and says why."""
    ordinary = Rules.arguments
    monkeypatch.setattr(Rules, "arguments", lambda it, _, failures: ordinary(it, "AnAccelerator", failures))
    instead(monkeypatch, "tests.sandbox.brittle")
    it = home.execution()
    await it.start()
    try:
        await until(lambda: it.confinement, "one became ready")
        assert 1 == it._own[0].process.deaths
        confinement = it.confinement[CPU]
        lack = Lack("the provider did not work behind a filter of system calls")
        assert ("C", ("limits",), (lack,)) == (confinement.grade, confinement.holds, confinement.lacks)
    finally:
        await it.stop()


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.ENOSYS, "has no Landlock"), (errno.EOPNOTSUPP, "switched off"), (errno.EPERM, "forbidden")],
)
async def test_without_landlock(home: Home, monkeypatch: pytest.MonkeyPatch, number: int, why: str) -> None:
    """An old kernel, one where it is off, a container: grade B, why, and what mends it. Files cannot be written then
    either; the graph of a model is not kept."""
    instead(monkeypatch, "tests.sandbox.denied", f"{LANDLOCK}={number}")
    async with ready(home.execution()) as it:
        confinement = it.confinement[CPU]
        assert ("B", ("system calls (seccomp)", "limits")) == (confinement.grade, confinement.holds)
        (lack,) = confinement.lacks
        assert why in lack.why
        assert lack.fix
        model = deep(home.path / "models")
        await run(it, model, X)
        assert [] == list((home.path / "worker" / "graphs").iterdir())


async def test_without_landlock_nothing_is_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the filter alone: reading is possible, as the grade says, and changing is not."""
    reader, writer = os.pipe()
    first = (f"{LANDLOCK}={errno.ENOSYS}", "tests.sandbox.intruder", str(writer), str(home.path), str(home.models))
    start = sandbox.start

    def started(_: str, arguments: Any, **named: Any) -> Any:
        return start("tests.sandbox.denied", [*first, *arguments], **(named | {"fds": (*named["fds"], writer)}))

    monkeypatch.setattr(process.sandbox, "start", started)
    async with ready(home.execution()):
        os.close(writer)
        tried = json.loads(os.read(reader, 1 << 16))
        os.close(reader)
    reads = {name for name in tried["files"] if name.startswith(("read", "list", "see"))}
    assert {"ENOSYS"} == {tried["files"].pop("read by openat2")}
    for name, end in tried["files"].items():
        assert end == "done" if name in reads else end == "EPERM", name
    assert "EPERM" == tried["system"]["connect"]
    assert "EPERM" == tried["system"]["signal the parent"]


async def test_without_seccomp(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Landlock alone is grade B; neither is C."""
    instead(monkeypatch, "tests.sandbox.denied", f"{SECCOMP}={errno.EINVAL}")
    expected = "B" if grade_here() == "A" else "C"
    async with ready(home.execution()) as it:
        assert expected == it.confinement[CPU].grade
        assert any("seccomp" in lack.why for lack in it.confinement[CPU].lacks)
    monkeypatch.undo()
    instead(monkeypatch, "tests.sandbox.denied", f"{SECCOMP}={errno.EINVAL},{LANDLOCK}={errno.ENOSYS}")
    async with ready(home.execution()) as it:
        assert ("C", ("limits",)) == (it.confinement[CPU].grade, it.confinement[CPU].holds)
        assert 2 == len(it.confinement[CPU].lacks)
        assert (1, 10) == (await run(it, bundled("digits"), IMAGE))["probabilities"].shape


async def test_a_sandbox_that_is_required(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Landlock no worker starts, and the reason names what is lacking."""
    instead(monkeypatch, "tests.sandbox.denied", f"{LANDLOCK}={errno.ENOSYS}")
    it = home.execution(sandbox=Sandbox.REQUIRE)
    await it.start()
    try:
        async with asyncio.timeout(60):
            with pytest.raises(WorkerCrashed, match=r'"require" wants grade A and this worker has B: .*Landlock'):
                await it.ready()
    finally:
        await it.stop()


@full
async def test_a_required_sandbox_that_is_there(home: Home) -> None:
    """Nothing is different."""
    async with ready(home.execution(sandbox=Sandbox.REQUIRE)) as it:
        assert "A" == it.confinement[CPU].grade


async def test_a_sandbox_that_is_off(home: Home) -> None:
    """Grade C, and it says whose wish that was."""
    async with ready(home.execution(sandbox=Sandbox.OFF)) as it:
        confinement = it.confinement[CPU]
        assert ("C", ("limits",)) == (confinement.grade, confinement.holds)
        fix = 'sandbox = "auto" under [execution] in config.toml'
        assert (Lack('it is switched off: sandbox = "off"', fix),) == confinement.lacks


def test_an_accelerator_bears_less(tmp_path: Path) -> None:
    """The filter without Landlock; when no worker became ready behind it, limits; those alone at the owner's wish."""
    cuda = "CUDAExecutionProvider"
    auto, required, off = (Rules((tmp_path,), each) for each in Sandbox)
    assert ["devices", "auto", str(tmp_path), "--"] == auto.arguments(cuda, 0)
    assert "limits" == auto.arguments(cuda, 1)[0]
    assert ["full", "full", "calls"] == [auto.arguments(CPU, failures)[0] for failures in (0, 1, 2)]
    assert "full" == required.arguments(CPU, 2)[0]
    assert {"limits"} == {off.arguments(provider, 0)[0] for provider in (CPU, cuda)}
    assert "require" == required.arguments(cuda, 0)[1]
