"""What in the package listens, starts programs or reads outside bytes, found in its syntax trees.

`SECURITY.md` has a row for each such module; `test_security_page.py` compares.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "meshnode"

LISTENS = frozenset(
    {"bind", "listen", "create_server", "start_server", "create_unix_server", "start_unix_server", "sock_accept"}
    | {
        "create_datagram_endpoint",
        "recvfrom",
        "connect_accepted_socket",
        "listening",
        "TCPSite",
        "UnixSite",
        "SockSite",
    }
    | {"add_insecure_port", "add_secure_port", "AsyncZeroconf"}
)
"""Names of what is called to be reached by others."""
STARTS = (
    frozenset({"Popen", "ProcessPoolExecutor", "create_subprocess_exec", "create_subprocess_shell"})
    | {
        f"{how}{rest}"
        for how in ("exec", "spawn", "posix_spawn")
        for rest in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe", "")
    }
    | {"fork", "forkpty", "system", "popen"}
)
"""…to have another process."""
READS = frozenset(
    {"Decoder", "unpackb", "Unpacker", "load_pem_private_key", "load_der_public_key", "load_der_x509_certificate"}
    | {"b32decode", "b64decode", "FromString", "ParseFromString", "frombuffer", "unpack", "unpack_from"}
    | {"urlsplit", "ZipFile", "load_from_cache", "read_text", "read_bytes", "read_checked"}
)
"""…to make values of bytes, whatever it is called on."""
READS_OF = {
    "msgspec": {"decode", "convert"},
    "json": {"decode", "loads", "load"},
    "msgpack": {"decode"},
    "tomllib": {"loads", "load"},
    "np": {"load"},
    "onnx": {"load", "load_model"},
    "Image": {"open"},
    "pickle": {"load", "loads"},
    "yaml": {"load", "safe_load"},
    "ElementTree": {"parse", "fromstring"},
    "gzip": {"open", "decompress"},
    "zlib": {"decompress", "decompressobj"},
    "tarfile": {"open"},
}
"""…and what is called on a module of that name."""


def modules() -> dict[str, ast.Module]:
    """Syntax trees by path, as in `trust/form`."""
    return {
        str(path.relative_to(PACKAGE).with_suffix("")): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")
    }


def calls(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(on what, name) of everything that is called; what only types are made of is none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        it = node.func.value if isinstance(node.func, ast.Subscript) else node.func
        if isinstance(it, ast.Name):
            yield "", it.id
        elif isinstance(it, ast.Attribute):
            on = it.value
            yield (on.id if isinstance(on, ast.Name) else on.attr if isinstance(on, ast.Attribute) else ""), it.attr


def listens(tree: ast.Module) -> bool:
    """Whether a socket is opened on which others may call."""
    return any(name in LISTENS for _, name in calls(tree))


def starts(tree: ast.Module) -> bool:
    """Whether other programs or processes are begun."""
    return any(
        (on == "subprocess" and name in {"run", "call", "check_call", "check_output", "Popen"})
        or (name in STARTS and on in {"", "os", "asyncio", "subprocess"} and (on or name == "ProcessPoolExecutor"))
        or (on == "sandbox" and name == "start")
        for on, name in calls(tree)
    ) or "sandbox.start" in {ast.unparse(it) for it in ast.walk(tree) if isinstance(it, ast.Attribute)}


def reads(tree: ast.Module) -> bool:
    """Whether bytes or text from outside become values."""
    return any(name in READS or name in READS_OF.get(on, ()) for on, name in calls(tree))
