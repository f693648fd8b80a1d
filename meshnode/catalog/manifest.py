"""What a model is to the mesh: its name, version, files and tensors, as its publisher signed them.

A model is known by its digest, the SHA-256 over the list of its files (path, size, SHA-256). The manifest is the body
of a `model` statement; it holds, for each file, the hash of its piece list, so that a piece can be verified as soon
as it arrives.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meshnode.errors import InvalidInput, ModelNotFound, ModelRefused, ProtocolError
from meshnode.wire.messages import Digest, NodeId

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST = re.compile(r"[0-9a-f]{64}")
FILES_MAX = 256
PIECES_MAX = 1 << 20
"""Of all files together: 32 MiB of hashes, 1 TiB at the usual piece size."""
MANIFEST_BYTES_MAX = 30 * 1024
"""A statement has at most 32 KiB, with its envelope."""
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
FileName = Annotated[str, Meta(pattern=rf"\A{FILE_NAME.pattern}\Z")]
Word = Annotated[str, Meta(max_length=256)]


class File(msgspec.Struct, frozen=True):
    """One file of a model; the first is the .onnx. `pieces` is the SHA-256 of its piece hashes, one after the other."""

    path: FileName
    size: Annotated[int, Meta(ge=0, le=2**46)]
    sha256: Hash
    pieces: Hash


class Tensor(msgspec.Struct, frozen=True):
    """An input or output; a dim is a number, a name, or None."""

    name: Annotated[str, Meta(max_length=512)]
    dtype: Annotated[str, Meta(max_length=256)]
    shape: Annotated[tuple[int | str | None, ...], Meta(max_length=64)]


class Mark(msgspec.Struct, frozen=True):
    """A publisher's signature of the name, version, digest and zone: the public key (DER), and Ed25519's 64 bytes."""

    key: Annotated[bytes, Meta(max_length=128)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class Manifest(msgspec.Struct, frozen=True, dict=True):
    """See the module's docstring. Sizes are bytes, `created` is UTC seconds, `run_us` a first measurement."""

    name: Annotated[str, Meta(pattern=rf"\A{NAME.pattern}\Z")]
    version: Annotated[int, Meta(ge=1, le=2**31)]
    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=FILES_MAX)]
    inputs: Annotated[tuple[Tensor, ...], Meta(max_length=1024)]
    outputs: Annotated[tuple[Tensor, ...], Meta(max_length=1024)]
    piece_bytes: Annotated[int, Meta(ge=4096, le=2**26)]
    memory_bytes: Annotated[int, Meta(ge=0, le=2**53)] = 0
    run_us: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    metadata: Annotated[dict[Word, Word], Meta(max_length=64)] = {}
    provider: Word = ""
    runtime: Word = ""
    created: Annotated[int, Meta(ge=0, le=2**53)] = 0
    zone: Annotated[str, Meta(max_length=64)] = ""
    """Only nodes whose grants name a zone inside this one may have it; anywhere when empty."""
    mark: Mark | None = None
    publisher: str = ""
    """Who signed it; filled in from the statement, never believed from the map."""
    bound: tuple[str, ...] = ()
    """The zones of all models with the same files, filled in likewise: no second name frees what one name binds."""

    @cached_property
    def digest(self) -> Digest:
        """The model's identity, hex."""
        return digest_of(self.files)

    @cached_property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_map(self) -> dict[str, Any]:
        """The body of the statement. Raises ModelRefused when the mesh would not take it."""
        body: dict[str, Any] = msgspec.to_builtins(self, builtin_types=(bytes,))
        for key in ("publisher", "bound", *(() if self.zone else ("zone",)), *(() if self.mark else ("mark",))):
            del body[key]
        nbytes = len(msgspec.msgpack.encode(body))
        if nbytes > MANIFEST_BYTES_MAX:
            raise ModelRefused(
                f"the model's description takes {nbytes} bytes, and at most {MANIFEST_BYTES_MAX} may travel",
                hint="fewer files, inputs and outputs, or shorter names",
            )
        try:
            from_map(body, NodeId(self.publisher))
        except ProtocolError as error:
            raise ModelRefused(f"the model cannot be described to the mesh: {error}") from error
        return body


def digest_of(files: Iterable[File]) -> Digest:
    """SHA-256 over path, size and hash of each file, in order."""
    hasher = hashlib.sha256(b"meshnode/model/1\0")
    for file in files:
        hasher.update(f"{file.path}\0{file.size}\0".encode() + file.sha256)
    return Digest(hasher.hexdigest())


def from_map(body: Mapping[str, Any], publisher: NodeId) -> Manifest:
    """The manifest of a `model` statement's body. Raises ProtocolError."""
    try:
        manifest = msgspec.convert({**body, "publisher": publisher, "bound": _bound(body)}, Manifest)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"not a model manifest: {error}") from error
    if DIGEST.fullmatch(manifest.name):
        raise ProtocolError("not a model manifest: its name looks like a digest")
    if len({file.path.lower() for file in manifest.files}) != len(manifest.files):
        raise ProtocolError("not a model manifest: two files have the same name")
    pieces = sum(piece_count(file, manifest.piece_bytes) for file in manifest.files)
    if pieces > PIECES_MAX:
        raise ProtocolError(f"not a model manifest: {pieces} pieces, at most {PIECES_MAX} are allowed")
    return manifest


def _bound(body: Mapping[str, Any]) -> tuple[Any, ...]:
    return (zone,) if (zone := body.get("zone")) else ()


def piece_count(file: File, piece_bytes: int) -> int:
    """In how many pieces a file travels; the last may be shorter."""
    return -(-file.size // piece_bytes)


def model_name(text: str) -> str:
    """A name made of a file's name or a user's word. Raises InvalidInput when it cannot be one."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    if not NAME.fullmatch(name) or DIGEST.fullmatch(name):
        raise InvalidInput(
            f"{text!r} cannot be a model's name", hint="up to 64 lower-case letters, digits, '.', '_' and '-'"
        )
    return name


def resolve(manifests: Sequence[Manifest], wanted: str) -> Manifest:
    """`name` (its newest version), `name:version`, or a digest. Raises ModelNotFound with names that are close."""
    if DIGEST.fullmatch(wanted):
        found = [m for m in manifests if m.digest == wanted]
    else:
        name, _, version = wanted.partition(":")
        found = [m for m in manifests if m.name == name and (not version or str(m.version) == version)]
    if found:
        return max(found, key=lambda m: (m.version, m.created, m.digest))
    names = sorted({m.name for m in manifests})
    close = difflib.get_close_matches(wanted.partition(":")[0], names, n=3, cutoff=0.5)
    versions = [f"{m.name}:{m.version}" for m in manifests if m.name == wanted.partition(":")[0]]
    if versions:
        hint = f"there is {', '.join(sorted(versions))}"
    elif close:
        hint = f"did you mean {' or '.join(close)}?"
    elif names:
        hint = f"this mesh has {', '.join(names[:10])}"
    else:
        hint = "this mesh has no models yet; `meshnode model add FILE` adds one"
    raise ModelNotFound(f"no model {wanted!r} in this mesh", hint=hint)
