"""Someone who does what a page says, on machines of their own: a shell each, with a home of its own, on this machine.

A prompt `desktop$ ` is the machine `desktop`; a bare `$ ` is the first machine of the page. `TOKEN` and `TOKENID` stand
for what the last `meshnode invite` printed, `BROKER` for a broker, 127.0.0.1:8080 and :8081 for free ports. An agent
(`meshnode up`, and what else follows for ever) runs on in the background; the next one on that machine takes its place.
Commands that only look are repeated until they show what the page shows: a reader takes longer than a mesh.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from meshnode import config
from tests.docs.pages import ROOT, Block, Command, commands, fits

PATIENCE_S = 60.0
LOOKS_S = 20.0
LOOKS = re.compile(
    r"meshnode (--home \S+ )?(status|members|model (list|ls|show)|events|ps|invite --list|blueprint (list|show)"
    r"|policy show|audit|ping|doctor|publisher list|run|why)\b|curl "
)
STAYS = re.compile(r"meshnode (--home \S+ )?up\b")
QUIET = """profile = "loopback"
name = "{name}"
manners = "free"
"""


class Reader:
    """Reads one page, to its end: what is not so is told together."""

    def __init__(self, folder: Path, page: list[Block], broker_port: int = 0) -> None:
        self._folder = folder
        typed = [
            it for block in page if block.language == "console" and block.mark != "not run" for it in commands(block)
        ]
        names = dict.fromkeys(it.machine for it in typed if it.machine) or {"laptop": None}
        self._machines = {name: Machine(folder / name, name) for name in names}
        self._wrong: list[str] = []
        self._tokens: dict[str, str] = {}
        self._words = {"127.0.0.1:8080": f"127.0.0.1:{_free()}", "127.0.0.1:8081": f"127.0.0.1:{_free()}"}
        if broker_port:
            self._words |= {"-h BROKER": f"-h 127.0.0.1 -p {broker_port}", "BROKER": f"127.0.0.1:{broker_port}"}

    def ends(self) -> None:
        """Raises AssertionError with all that was not as the page says."""
        assert not self._wrong, "\n\n".join(self._wrong)

    def close(self) -> None:
        """Leave nothing running."""
        for machine in self._machines.values():
            machine.close()

    def prepares(self, needs: list[str]) -> None:
        """What the page takes for granted."""
        machine = self._machine("")
        if needs and needs != ["mosquitto"]:
            machine.starts("meshnode up", "")
        for model in needs:
            if (machine.folder / "models" / model).exists():
                said, code = machine.types(f"meshnode model add models/{model}/model.onnx --name {model}")
                assert 0 == code, said

    def does(self, block: Block) -> None:
        """Do what one block says."""
        if block.mark == "not run":
            return
        if block.mark == "config":
            self._accepts(block)
        elif block.mark == "file":
            for machine in self._machines.values():
                path = machine.folder / block.said.removeprefix("~/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._said(block.body))
        elif block.language == "console":
            for command, after in _pairs(commands(block)):
                try:
                    self._types(block, command, checked=after)
                except AssertionError as error:
                    self._wrong.append(str(error))
        elif block.language == "python":
            self._runs(block)
        else:
            raise AssertionError(f"{block}: nobody knows what to do with it: mark it as file, config or not run")

    def _machine(self, name: str) -> Machine:
        return self._machines[name or next(iter(self._machines))]

    def _said(self, text: str) -> str:
        return _replaced(text, self._words)

    def _typed(self, text: str) -> str:
        return _replaced(text, self._words | self._tokens)

    def _accepts(self, block: Block) -> None:
        """A piece of config.toml is one that an agent would start with."""
        home = self._folder / f"config-{block.line}"
        home.mkdir()
        (home / "config.toml").write_text(block.body)
        tomllib.loads(block.body)
        config.load(home)

    def _runs(self, block: Block) -> None:
        machine = self._machine("")
        path = machine.folder / f"block-{block.line}.py"
        path.write_text(self._said(block.body))
        doctest = ("-m", "doctest", "-o", "ELLIPSIS", "-o", "NORMALIZE_WHITESPACE") if ">>> " in block.body else ()
        done = subprocess.run(
            [sys.executable, *doctest, path.name],
            cwd=machine.folder,
            env=machine.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode:
            self._wrong.append(f"{block}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")

    def _types(self, block: Block, command: Command, *, checked: bool) -> None:
        machine = self._machine(command.machine)
        words = self._typed(command.command)
        if STAYS.match(words):
            machine.starts(words, self._said(command.shown))
            return
        end = time.monotonic() + (LOOKS_S if LOOKS.match(words) else 0)
        while True:
            output, code = machine.types(words)
            good = (code == 0 or checked) and (not command.shown or fits(self._said(command.shown), output))
            if good or time.monotonic() > end:
                break
            time.sleep(0.2)
        assert good, f"{block}: `{words}` ended with {code} and said:\n{output}\nand not:\n{command.shown}"
        if re.match(r"meshnode (--home \S+ )?invite\b(?!.*(--list|\|))", words):
            self._tokens["TOKEN"] = output.split()[-1]
        elif re.match(r"meshnode (--home \S+ )?invite --list", words):
            self._tokens["TOKENID"] = re.findall(r"\b[0-9a-f]{8,}\b", output)[0]


class Machine:
    """A shell with a home, a folder with what a checkout holds, and perhaps an agent."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        home = folder / ".local" / "share" / "meshnode"
        home.mkdir(parents=True, mode=0o700)
        (home / "config.toml").write_text(QUIET.format(name=name))
        for shared in ("models", "deploy"):
            shutil.copytree(ROOT / shared, folder / shared)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MESHNODE", "XDG", "OTEL"))}
        path = f"{Path(sys.executable).parent}:{kept.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        self.environment = kept | {
            "HOME": str(folder),
            "PATH": path,
            "NO_COLOR": "1",
            "COLUMNS": "140",
            "LANG": "C.UTF-8",
        }
        self._agent: subprocess.Popen[bytes] | None = None
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def types(self, words: str) -> tuple[str, int]:
        """Type a command: what it said, and its exit code."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'(exit ${{_rc:-0}}); {{ {words}\n}} </dev/null; _rc=$?; echo "@@$_rc@@"\n'.encode())
        self._shell.stdin.flush()
        said, end = b"", time.monotonic() + PATIENCE_S
        while not (done := re.search(rb"@@(\d+)@@\n$", said)):
            ready, _, _ = select.select([self._shell.stdout], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"`{words}` does not end; it said so far:\n{said.decode(errors='replace')}"
            piece = os.read(self._shell.stdout.fileno(), 65536)
            assert piece, f"`{words}` ended the shell"
            said += piece
        return said[: done.start()].decode(errors="replace"), int(done[1])

    def starts(self, words: str, shown: str) -> None:
        """Type a command that stays; returns when it said what is shown and the agent answers."""
        self._ends()
        log = self.folder / "up.log"
        with log.open("wb") as out:
            self._agent = subprocess.Popen(
                ["bash", "-c", f"exec {words}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE_S
        while not ("listening on" in log.read_text() and (not shown or fits(shown, log.read_text()))):
            assert self._agent.poll() is None, f"`{words}` ended:\n{log.read_text()}"
            assert time.monotonic() < end, f"`{words}` said:\n{log.read_text()}\nand not:\n{shown}"
            time.sleep(0.05)

    def close(self) -> None:
        """The machine is switched off."""
        self._ends()
        os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()

    def _ends(self) -> None:
        if self._agent is None:
            return
        if self._agent.poll() is None:
            self._agent.terminate()
        try:
            self._agent.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._agent.pid, signal.SIGKILL)
            self._agent.wait()
        self._agent = None


def _pairs(rows: list[Command]) -> list[tuple[Command, bool]]:
    """Each with whether the next line asks for its exit code: then that may be anything."""
    after = [it.command for it in rows[1:]] + [""]
    return [(it, next_one.startswith("echo $?")) for it, next_one in zip(rows, after, strict=True)]


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, meant in words.items():
        text = re.sub(rf"(?<![\w$]){re.escape(word)}(?!\w)", lambda _, meant=meant: meant, text)  # type: ignore[misc]
    return text


def _free() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])
