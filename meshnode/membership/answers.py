"""What this node answers when peers ask about membership over a link: pings, tables, adverts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshnode.errors import ProtocolError
from meshnode.links.link import Incoming, Reply
from meshnode.membership import entropy
from meshnode.membership.book import AdvertBook
from meshnode.membership.entropy import AgeOf, News, Told
from meshnode.membership.events import Event, Merged
from meshnode.membership.swim import Swim
from meshnode.wire import batches, messages
from meshnode.wire.messages import AdvertPull, NodeId, StreamPing, ViewAsk, ViewNews, ViewRows


@dataclass(frozen=True, slots=True)
class Answers:
    """See the module's docstring. `feed` tells the failure detector."""

    core: Swim
    adverts: AdvertBook
    age_s: AgeOf
    feed: Callable[[Event], None]

    def to(self, incoming: Incoming) -> Reply:
        """The answer. Raises ProtocolError."""
        roster, body = self.core.roster, incoming.body
        match incoming.request:
            case StreamPing():
                if len(body):
                    self.feed(Merged(entropy.decode_news(body).told))
                return Reply(ViewNews(), (entropy.encode(News((Told(0.0, self.core.oneself.word),))),))
            case ViewAsk(root):
                if root == roster.root:
                    return Reply(messages.Done(), ())
                return Reply(messages.ViewDigest(), (entropy.digest(roster),))
            case ViewRows():
                return Reply(
                    ViewNews(), (entropy.encode(entropy.answer(roster, entropy.decode_rows(body), self.age_s)),)
                )
            case ViewNews():
                self.feed(Merged(entropy.decode_news(body).told))
                return Reply(messages.Done(), ())
            case AdvertPull():
                # Each once: a short question must not make an answer of gigabytes.
                ids = dict.fromkeys(batches.unpack_batch(body, item_bytes_max=64))
                found = [self.adverts.bytes_of(NodeId(id.decode("ascii", "replace"))) for id in ids]
                # The smallest first, so that the asker can use most nodes soonest.
                held = sorted((data for data in found if data is not None), key=len)
                return Reply(messages.Adverts(), (batches.pack_batch(held),))
        raise ProtocolError(f"{type(incoming.request).__name__} is not about membership")
