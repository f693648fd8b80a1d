"""Spans of tasks to an OpenTelemetry collector (extra `traces`). Imported only when the settings name one.

Spans are put into a queue and sent by a thread; a collector that does not answer costs what is in the queue, and no
task a moment.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.trace import Span as Recorded
from opentelemetry.trace.propagation import set_span_in_context

from meshnode.edge.node import Node
from meshnode.edge.tracing import parse, written
from meshnode.errors import ConfigError
from meshnode.tasks.outcomes import Served
from meshnode.tasks.spans import Span
from meshnode.wire.messages import Inferred

log = logging.getLogger(__name__)

SEND_S = 2.0
"""A collector that takes longer gets nothing of that batch…"""
EVERY_S = 1.0
WAITING_MAX = 4096
"""…and of spans that wait for it, the oldest go."""
KINDS = {"submit": SpanKind.SERVER, "attempt": SpanKind.CLIENT, "serve": SpanKind.SERVER}
Fact = str | int | float


class Sender(OTLPSpanExporter):
    """Says once that the collector takes nothing, and once that it does again; the library says it for each batch."""

    failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See the library."""
        result = super().export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed != self.failing:
            self.failing = failed
            log.warning("the collector of traces %s", "takes nothing: spans are lost" if failed else "takes them again")
        return result


@dataclass(slots=True)
class Told:
    """A span that is recorded."""

    span: Recorded
    context: str

    def tell(self, **facts: Fact) -> None:
        """More about it."""
        self.span.set_attributes(named(facts))

    def end(self, outcome: str, **facts: Fact) -> None:
        """It is over."""
        finish(self.span, outcome, facts)


@dataclass(slots=True)
class Passed:
    """A span that is not recorded, and whose parts are not either."""

    context: str

    def tell(self, **facts: Fact) -> None:
        """Nobody listens."""

    def end(self, outcome: str, **facts: Fact) -> None:
        """Nobody listens."""


@dataclass(slots=True)
class Otlp:
    """A door to the collector; see `meshnode.tasks.spans`."""

    node: Node
    chance: random.Random = field(default_factory=random.Random)
    _provider: TracerProvider = field(init=False)
    _tracer: Tracer = field(init=False)

    def __post_init__(self) -> None:
        endpoint = self.node.settings.traces.endpoint
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"traces.endpoint {endpoint!r} is no URL", hint="as http://127.0.0.1:4318/v1/traces")
        me = self.node.keeper
        resource = Resource.create(
            {
                "service.name": "meshnode",
                "service.version": self.node.version,
                "service.instance.id": me.id,
                "service.namespace": me.statements.mesh_name,
                "host.name": self.node.settings.name or socket.gethostname(),
            }
        )
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = Sender(endpoint, timeout=SEND_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=WAITING_MAX, schedule_delay_millis=EVERY_S * 1000)
        )
        self._tracer = self._provider.get_tracer("meshnode", self.node.version)

    async def start(self) -> None:
        """From now on tasks are told of."""
        self.node.dispatcher.means.spans = self
        self.node.serving.spans = self

    async def stop(self) -> None:
        """What waits is sent, if the collector takes it."""
        self.node.dispatcher.means.spans = self.node.serving.spans = None
        await asyncio.to_thread(self._provider.shutdown)

    def submitted(self, parent: str, task: str, model: str) -> Span:
        """See `Spans`."""
        facts: dict[str, Fact] = {"task": task, "model": model}
        read = parse(parent)
        if read is None and self.chance.random() < self.node.settings.traces.share:
            return self._record("submit", None, facts)
        if read is None or not read[2]:
            return Passed(parent)
        return self._record("submit", parent, facts)

    def begin(self, name: str, parent: str, **facts: Fact) -> Span | None:
        """See `Spans`."""
        read = parse(parent)
        return self._record(name, parent, facts) if read is not None and read[2] else None

    def served(self, parent: str, it: Served, done: Inferred | None) -> None:
        """What this node did, now that it is over: queue and run are told from what was measured."""
        read = parse(parent)
        if read is None or not read[2]:
            return
        now = time.time_ns()
        began = now - _ns(it.seconds)
        facts: dict[str, Fact] = {"task": it.task, "model": it.model, "submitter": it.submitter}
        whole = self._record("serve", parent, facts, began)
        if done is not None:
            ran = now - _ns(done.run_s)
            queued = max(began, ran - _ns(done.queue_s))
            self._record("queue", whole.context, {}, queued).span.end(ran)
            told: dict[str, Fact] = {"provider": done.provider, "batch": done.batch}
            self._record("run", whole.context, told, ran).span.end(now)
        finish(whole.span, it.outcome, {"input_bytes": it.input_bytes, "output_bytes": it.output_bytes}, now)

    def _record(self, name: str, parent: str | None, facts: dict[str, Fact], began: int | None = None) -> Told:
        read = parse(parent) if parent else None
        context = None
        if read is not None:
            flags = TraceFlags(TraceFlags.SAMPLED)
            context = set_span_in_context(NonRecordingSpan(SpanContext(read[0], read[1], True, flags)))
        kind = KINDS.get(name, SpanKind.INTERNAL)
        span = self._tracer.start_span(name, context, kind, named(facts), start_time=began)
        own = span.get_span_context()
        return Told(span, written(own.trace_id, own.span_id, True))


def named(facts: dict[str, Fact]) -> dict[str, Fact]:
    """Attributes of ours, by names that are nobody else's."""
    return {f"meshnode.{key}": value for key, value in facts.items()}


def finish(span: Recorded, outcome: str, facts: dict[str, Fact], at: int | None = None) -> None:
    """The end of a span; what failed is an error, what was cancelled is not."""
    span.set_attributes(named({"outcome": outcome, **facts}))
    if outcome not in ("ok", "cancelled"):
        span.set_status(Status(StatusCode.ERROR, outcome))
    span.end(at)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
