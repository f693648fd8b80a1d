"""`/metrics`: what Prometheus reads. Numbers are collected when they are asked for, from where the agent has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from meshnode.edge.measures import Histogram, Measures
from meshnode.edge.node import Node

if TYPE_CHECKING:
    from meshnode.edge.http.server import Door

STATES = ("alive", "suspect", "dead", "left")


def routes(door: Door) -> Iterable[web.AbstractRouteDef]:
    """The part of the door."""
    measures = Measures()
    measures.listen(door.node)
    measures.watching = asyncio.ensure_future(measures.lateness.watch(door.stopping))
    registry = CollectorRegistry(auto_describe=False)
    for collector in (Numbers(door.node, measures), ProcessCollector(registry=None), PlatformCollector(registry=None)):
        registry.register(collector)

    async def answer(request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": kind})

    return [web.get("/metrics", answer)]


class Numbers(Collector):
    """What there is to tell of a node. Names end in what they count; times are seconds, sizes bytes."""

    def __init__(self, node: Node, measures: Measures) -> None:
        self._node = node
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        """One reading."""
        yield from self._about()
        yield from self._tasks()
        yield from self._work()
        yield from self._mesh()
        yield from self._models()

    def _about(self) -> Iterator[Metric]:
        node = self._node
        me = next((it for it in node.membership.view() if it.id == node.keeper.id), None)
        about = {
            "version": node.version,
            "node": node.keeper.id,
            "name": me.name if me is not None else "",
            "mesh": node.keeper.statements.mesh_name,
        }
        yield InfoMetricFamily("meshnode", "This node.", value=about)
        yield gauge("meshnode_paused", "1 while no work of other nodes is taken here.", float(bool(node.owner.reason)))
        late = self._measures.lateness.longest_s
        yield gauge("meshnode_loop_lag_seconds", "The longest that the event loop was late, of the last minute.", late)

    def _tasks(self) -> Iterator[Metric]:
        it, counters = self._measures, self._node.dispatcher.counters
        ended = CounterMetricFamily(
            "meshnode_tasks",
            "Tasks that programs gave this node: ok, failed or cancelled, and the code of the error.",
            labels=["outcome", "reason"],
        )
        for code, count in sorted(it.ended.items()):
            outcome, reason = (code, "") if code in ("ok", "cancelled") else ("failed", code)
            ended.add_metric([outcome, reason], count)
        if "ok" not in it.ended:
            ended.add_metric(["ok", ""], 0)  # a rate wants a beginning
        yield ended
        yield histogram("meshnode_task_seconds", "From a task's submission here to its result.", it.took)
        yield gauge("meshnode_tasks_open", "Tasks of programs here without an answer yet.", self._node.dispatcher.open)
        yield counter("meshnode_task_attempts", "Attempts of the tasks that have ended.", it.attempts)
        yield counter("meshnode_tasks_rerouted", "Tasks of which a second attempt was made.", counters.rerouted)
        yield counter("meshnode_tasks_hedged", "Tasks of which a second copy was sent.", counters.hedged)
        yield counter("meshnode_results_recalled", "Results that were fetched over a new link.", counters.recalled)
        yield counter("meshnode_results_late", "Results that came when nobody waited any more.", counters.late)
        yield counter("meshnode_tasks_verified", "Tasks that a second node repeated.", counters.verified)
        yield counter("meshnode_tasks_disputed", "Tasks on whose result two nodes did not agree.", counters.disputed)

    def _work(self) -> Iterator[Metric]:
        it, node = self._measures, self._node
        served = CounterMetricFamily(
            "meshnode_served_tasks",
            "Tasks that this node was given to run, by itself or by another node.",
            labels=["outcome", "reason", "submitter"],
        )
        for (code, foreign), count in sorted(it.served.items()):
            outcome, reason = (code, "") if code in ("ok", "cancelled") else ("failed", code)
            served.add_metric([outcome, reason, "other" if foreign else "self"], count)
        yield served
        yield histogram("meshnode_run_seconds", "Runs of models here, without waiting.", it.ran)
        yield counter("meshnode_served_input_bytes", "Tensors that came with tasks.", it.bytes_in)
        yield counter("meshnode_served_output_bytes", "Tensors of results.", it.bytes_out)
        in_flight, backlog_s, _ = node.execution.vitals()
        yield gauge("meshnode_queue_tasks", "Tasks that wait or run here.", in_flight)
        yield gauge("meshnode_backlog_seconds", "Until a new task would begin here.", backlog_s)
        yield counter("meshnode_quotes_asked", "Quotes that other nodes asked this one for.", node.serving.asked)
        yield counter("meshnode_quotes_given", "Those that they got; the others were refused.", node.serving.quoted)
        which = ["provider", "submitter"]
        up = GaugeMetricFamily("meshnode_workers", "Worker processes that can run models.", labels=which)
        deaths = CounterMetricFamily("meshnode_worker_deaths", "Workers that died.", labels=which)
        for provider, others, is_up, died in node.execution.workers():
            labels = [provider, "other" if others else "any"]
            up.add_metric(labels, float(is_up))
            deaths.add_metric(labels, died)
        yield up
        yield deaths

    def _mesh(self) -> Iterator[Metric]:
        node, view = self._node, self._node.membership.view()
        nodes = GaugeMetricFamily("meshnode_nodes", "Nodes of the mesh as seen from here.", labels=["state"])
        for state in STATES:
            nodes.add_metric([state], sum(it.state == state for it in view))
        yield nodes
        links = GaugeMetricFamily("meshnode_links", "Links that are open.", labels=["path"])
        opened = node.pool.links()
        relayed = sum(it.via is not None for it in opened)
        links.add_metric(["direct"], len(opened) - relayed)
        links.add_metric(["relay"], relayed)
        yield links
        traffic = node.pool.traffic
        yield counter("meshnode_link_sent_bytes", "Over all links to nodes, before TLS.", traffic.sent)
        yield counter("meshnode_link_received_bytes", "Over all links to nodes, before TLS.", traffic.received)

    def _models(self) -> Iterator[Metric]:
        node, named = self._node, {it.digest: f"{it.name}:{it.version}" for it in self._node.catalog.manifests()}
        loaded = node.execution.loaded()
        yield gauge("meshnode_models", "Models of the mesh.", len(named))
        yield gauge("meshnode_models_loaded", "Models in the workers' memory.", len(loaded))
        yield gauge("meshnode_models_loaded_bytes", "What they take.", sum(it.bytes for it in loaded))
        yield gauge("meshnode_transfers", "Models on their way here.", node.fetcher.under_way)
        yield counter("meshnode_transfer_received_bytes", "Pieces of models from other nodes.", node.fetcher.came_bytes)
        yield counter("meshnode_transfer_sent_bytes", "Pieces of models to other nodes.", node.giver.given_bytes)
        runs = CounterMetricFamily("meshnode_model_runs", "Runs of a model here.", labels=["model", "outcome"])
        busy = CounterMetricFamily("meshnode_model_run_seconds", "What those with a result took.", labels=["model"])
        for digest, tally in node.serving.tallies.items():
            name = named.get(digest, digest[:12])
            runs.add_metric([name, "ok"], tally.runs)
            runs.add_metric([name, "failed"], tally.failed)
            busy.add_metric([name], tally.run_s)
        yield runs
        yield busy


def gauge(name: str, says: str, value: float) -> Metric:
    """One number that goes up and down."""
    return GaugeMetricFamily(name, says, value=value)


def counter(name: str, says: str, value: float) -> Metric:
    """One number that only grows; its name gets `_total`."""
    return CounterMetricFamily(name, says, value=value)


def histogram(name: str, says: str, it: Histogram) -> Metric:
    """Buckets, their sum and count."""
    return HistogramMetricFamily(name, says, buckets=it.buckets(), sum_value=it.sum)
