"""What a program might try that has taken a worker over. Each attempt says what came of it: an errno's name, or done.

Used inside of confined processes, so it imports only what it needs and leaves nothing behind where it succeeds.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

NUMBERS = {
    "x86_64": {"clone": 56, "clone3": 435, "unshare": 272, "mount": 165, "bpf": 321, "keyctl": 250, "ptrace": 101},
    "aarch64": {"clone": 220, "clone3": 435, "unshare": 97, "mount": 40, "bpf": 280, "keyctl": 219, "ptrace": 117},
}[os.uname().machine]
IO_URING_SETUP, PIDFD_OPEN, PIDFD_GETFD, OPENAT2 = 425, 434, 438, 437
"""The same everywhere."""
AT_FDCWD, PTRACE_ATTACH, CLONE_NEWUSER = -100, 16, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)


def outcome(act: Callable[[], object]) -> str:
    """In a word."""
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    except ValueError as error:  # a limit that may not be raised
        return str(error)
    return "done"


def call(*arguments: object) -> int:
    """A system call as it is."""
    result = libc.syscall(*(ctypes.c_long(it) if isinstance(it, int) else it for it in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return int(result)


def opened(path: str | Path, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags, 0o600))


def forked(fork: Callable[[], int]) -> None:
    """A child ends at once."""
    child = fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def connected(address: str | tuple[str, int]) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as it:
        it.connect(address)


def bound(address: str | tuple[str, int]) -> None:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as it:
        it.bind(address)


def remembered() -> None:
    """A memory file is made, written, mapped."""
    fd = os.memfd_create("x")
    try:
        os.ftruncate(fd, 4096)
        os.pwrite(fd, b"abc", 0)
        opened(f"/dev/fd/{fd}", os.O_WRONLY)
        with mmap.mmap(fd, 4096) as memory:
            assert b"abc" == memory[:3]
    finally:
        os.close(fd)


def threaded() -> None:
    """Eight threads run and end."""
    done: list[int] = []
    threads = [threading.Thread(target=done.append, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 8 == len(done)


def files(home: Path, models: Path) -> dict[str, Callable[[], object]]:
    """To read and change what is not its own. `models` may be read, and holds model.onnx."""
    model, mine = models / "model.onnx", Path.cwd() / "graphs"
    parent = os.getppid()
    return {
        "read /etc/passwd": lambda: opened("/etc/passwd"),
        "read the key": lambda: opened(home / "node.key"),
        "list the home": lambda: os.listdir(home),
        "list its own folder": lambda: os.listdir("."),
        "list /": lambda: os.listdir("/"),
        "list /proc": lambda: os.listdir("/proc"),
        "read of process 1": lambda: opened("/proc/1/status"),
        "read of its parent": lambda: opened(f"/proc/{parent}/environ"),
        "see the parent's files": lambda: os.listdir(f"/proc/{parent}/cwd"),
        "read by another way": lambda: opened(Path("/proc/self/root") / "etc/passwd"),
        "read by openat2": lambda: os.close(
            call(OPENAT2, AT_FDCWD, ctypes.c_char_p(b"/etc/passwd"), (ctypes.c_uint64 * 3)(), 24)
        ),
        "write a file": lambda: opened("new", os.O_WRONLY | os.O_CREAT),
        "write beside the graphs": lambda: opened(mine / "new", os.O_WRONLY | os.O_CREAT),
        "write in /tmp": lambda: opened("/tmp/meshnode-intruder", os.O_WRONLY | os.O_CREAT),  # noqa: S108
        "write without a name": lambda: opened("/tmp", os.O_RDWR | os.O_TMPFILE),  # noqa: S108
        "add to a model": lambda: opened(model, os.O_WRONLY | os.O_APPEND),
        "shorten a model": lambda: os.truncate(model, 1),
        "empty a model": lambda: opened(model, os.O_RDONLY | os.O_TRUNC),
        "remove a model": lambda: os.unlink(model),
        "rename a model": lambda: os.rename(model, models / "other.onnx"),
        "link the key": lambda: os.link(home / "node.key", models / "link"),
        "link by name": lambda: os.symlink(home / "node.key", models / "link"),
        "make a folder": lambda: os.mkdir(models / "new"),
        "change the mode": lambda: os.chmod(model, 0o777),  # noqa: S103
        "change the mode of what is open": lambda: _on_open(model, lambda fd: os.fchmod(fd, 0o777)),
        "change the owner": lambda: os.chown(model, os.getuid(), os.getgid()),
        "change the times": lambda: os.utime(model, (0, 0)),
        "change an attribute": lambda: os.setxattr(model, "user.x", b"y"),
    }


def system(parent: int) -> dict[str, Callable[[], object]]:
    """The network, other programs, other processes, the kernel's insides."""
    return {
        "socket": lambda: bound(("127.0.0.1", 0)),
        "connect": lambda: connected(("127.0.0.1", 9)),
        "IPv6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "Unix socket": lambda: bound("socket"),
        "abstract socket": lambda: bound("\0meshnode-intruder"),
        "pair of sockets": lambda: [it.close() for it in socket.socketpair()],
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "become a program": lambda: os.execv("/bin/true-that-is-not-there", ["x"]),  # noqa: S606
        "spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "fork": lambda: forked(os.fork),
        "clone": lambda: forked(lambda: call(NUMBERS["clone"], int(signal.SIGCHLD), 0, 0, 0, 0)),
        "clone3": lambda: call(NUMBERS["clone3"], 0, 0),
        "trace the parent": lambda: call(NUMBERS["ptrace"], PTRACE_ATTACH, parent, 0, 0),
        "signal the parent": lambda: os.kill(parent, 0),
        "signal its group": lambda: os.kill(0, 0),
        "signal all": lambda: os.kill(-1, 0),
        "a handle of the parent": lambda: os.close(call(PIDFD_OPEN, parent, 0)),
        "a file of the parent": lambda: call(PIDFD_GETFD, 0, 0, 0),
        "slow the parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, 5),
        "limit the parent": lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (64, 64)),
        "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
        "live on without the parent": lambda: _prctl(1, 0),
        "unshare": lambda: call(NUMBERS["unshare"], CLONE_NEWUSER),
        "mount": lambda: call(NUMBERS["mount"], 0, 0, 0, 0, 0),
        "bpf": lambda: call(NUMBERS["bpf"], 0, 0, 0),
        "io_uring": lambda: call(IO_URING_SETUP, 1, 0),
        "keyctl": lambda: call(NUMBERS["keyctl"], 0, 0, 0),
    }


def needed(models: Path) -> dict[str, Callable[[], object]]:
    """What a worker must be able to do."""
    return {
        "read a model": lambda: opened(models / "model.onnx"),
        "list a model": lambda: os.listdir(models),
        "list the graphs": lambda: os.listdir("graphs"),
        "memory files": remembered,
        "threads": threaded,
        "a module": lambda: __import__("wave"),
        "its memory": lambda: opened("/proc/self/statm"),
        "the machine's memory": lambda: opened("/proc/meminfo"),
        "its own signal": lambda: os.kill(os.getpid(), 0),
        "its limits": lambda: resource.getrlimit(resource.RLIMIT_NOFILE),
        "random bytes": lambda: os.urandom(8),
    }


def outcomes(attempts: dict[str, Callable[[], object]]) -> dict[str, str]:
    """All of them, one after the other."""
    return {name: outcome(act) for name, act in attempts.items()}


def _on_open(path: Path, act: Callable[[int], object]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        act(fd)
    finally:
        os.close(fd)


def _prctl(option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), "")
