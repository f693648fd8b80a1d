"""The values of a transfer: what happens to it, and what is to be done. `meshnode.catalog.transfer` decides."""

from __future__ import annotations

from dataclasses import dataclass

from meshnode.errors import TransferFailed
from meshnode.wire.messages import NodeId

LIST = -1
"""The index that stands for a file's piece list."""


@dataclass(frozen=True, slots=True)
class Holders:
    """Nodes that have all of the model now, the preferred first. Also what `next_deadline` asks for."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class HaveCame:
    """What a holder has, and what it has given to others lately, as bitmaps; and who else asked for the model."""

    holder: NodeId
    have: bytes
    given: bytes
    fellows: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class NoHave:
    """A holder did not say what it has."""

    holder: NodeId


@dataclass(frozen=True, slots=True)
class ListCame:
    """A holder sent the piece list of a file."""

    holder: NodeId
    file: int
    data: bytes


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The answer to `Check`: pieces of a file that are on disk and match."""

    file: int
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PieceCame:
    """A holder sent a piece; `sha256` is what its bytes hash to."""

    holder: NodeId
    file: int
    index: int
    data: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """A holder did not answer a request for a piece, or for a list (index LIST)."""

    holder: NodeId
    file: int
    index: int
    reason: str


Event = Holders | HaveCame | NoHave | ListCame | OnDisk | PieceCame | Failed


@dataclass(frozen=True, slots=True)
class AskHave:
    """Ask a holder which pieces it has."""

    holder: NodeId


@dataclass(frozen=True, slots=True)
class AskList:
    """Ask a holder for the piece list of a file."""

    holder: NodeId
    file: int


@dataclass(frozen=True, slots=True)
class AskPiece:
    """Ask a holder for a piece."""

    holder: NodeId
    file: int
    index: int


@dataclass(frozen=True, slots=True)
class Check:
    """The hashes of a file's pieces are known: answer with `OnDisk`. Nothing of the file is asked for before."""

    file: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """A verified piece belongs on disk."""

    file: int
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Complete:
    """Every piece is there."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It cannot be had."""

    error: TransferFailed


Effect = AskHave | AskList | AskPiece | Check | Write | Complete | GiveUp
