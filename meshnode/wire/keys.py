"""What a node asks an admin's node about its own key, and an admin's node asks another about an admin key."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from meshnode.wire.terms import Message

Spki = Annotated[bytes, Meta(min_length=44, max_length=44)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]


class RenewAsk(Message, frozen=True, tag="renew_ask"):
    """Renew my certificate, and my grant when its last third has begun. Answered by `Renewed`, or why not.

    `key` is the asking node's own: its id follows from it.
    """

    key: Spki


class Renewed(Message, frozen=True, tag="renewed"):
    """Body: a batch of the certificate and the statements that go with it."""


class RotateAsk(Message, frozen=True, tag="rotate_ask"):
    """I go on with another key: both keys sign that it takes over. Answered by `Renewed` for the node of that key."""

    key: Spki
    new: Spki
    by_old: Signature
    by_new: Signature


class AdminKeyAsk(Message, frozen=True, tag="admin_key_ask"):
    """Which admin key would you hold? A node makes one when it has none. Only an admin's node is answered."""


class AdminKey(Message, frozen=True, tag="admin_key"):
    """A public key and its certificate, DER; the private half stays where it is."""

    key: Spki
    root: Annotated[bytes, Meta(max_length=2048)]


KeyRequest = RenewAsk | RotateAsk | AdminKeyAsk
KeyReply = Renewed | AdminKey
