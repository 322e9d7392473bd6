"""Metrics in Prometheus's text format, made at each scrape from what the rooms count anyway.

It reads tallies, histograms and statistics, and asks the spool once a scrape. Labels are streams,
providers, states, actors and words of this program; never a client's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mailactors.dispatch.lane import BreakerState, Lane
from mailactors.dispatch.lanes import Lanes
from mailactors.dispatch.state import DispatcherState
from mailactors.intake.door import Door
from mailactors.model.lifecycle import FINAL, Status
from mailactors.observe.watchdog import WatchdogStatus
from mailactors.runtime.ports import Ports
from mailactors.runtime.supervisor import Supervisor
from mailactors.runtime.tally import Histogram
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Ledger, Pending

Labels: TypeAlias = tuple[str, ...]
"""Names of labels, or their values."""


class Gauges(Protocol):
    """What a scrape looks at; a gateway has all of it."""

    door: Door
    dispatcher: DispatcherState
    lanes: Lanes
    supervisor: Supervisor
    spool: SpoolClient
    public_spool: SpoolClient
    watch: WatchdogStatus
    ports: Ports


async def expose(gauges: Gauges) -> bytes:
    """Return everything as text, version 0.0.4."""
    now = gauges.ports.clock.wall_time()
    backlog = await gauges.public_spool.read(lambda spool: (spool.pending(now), spool.ledger()))
    return generate_latest(_Snapshot(collect(gauges, *backlog)))


class _Snapshot(Collector):
    """Hands ready-made families to prometheus_client."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def collect(gauges: Gauges, pending: Sequence[Pending], ledger: Ledger) -> Iterator[Metric]:
    """Yield every family."""
    clock = gauges.ports.clock
    results, attempts = gauges.door.results.counts, gauges.lanes.attempts.counts
    yield _counter("submissions", "Submissions by result.", ("result",), results)
    yield _counter(
        "attempts", "Attempts by provider and outcome.", ("provider", "outcome"), attempts
    )
    yield _counter(
        "mailactors_shortages",
        "Descriptors, memory, threads or ports that were lacking, by provider or `api`.",
        ("where",),
        gauges.lanes.shortages.counts.counts,
    )
    yield _histogram(
        "retry_decision_seconds",
        "From a failure's last byte or timeout to the decision on what follows.",
        gauges.dispatcher.decided_s,
    )
    yield _histogram(
        "retry_recorded_seconds",
        "From a failure's last byte or timeout until that decision was durable.",
        gauges.dispatcher.recorded_s,
    )
    yield _histogram(
        "commit_commands", "Commands that shared a commit.", gauges.spool.signals.commits
    )
    yield from _backlog(pending, clock.wall_time())
    yield from _ledger(ledger)
    yield from _lanes(list(gauges.lanes.values()), clock.now_s())
    yield from _actors(gauges.supervisor)
    yield from _watched(gauges.watch, clock.now_s())


def _backlog(pending: Sequence[Pending], now: float) -> Iterator[Metric]:
    in_state = ("stream", "state")
    due = [each for each in pending if each.status is not Status.SCHEDULED]
    oldest: dict[Labels, float] = {}
    for each in due:
        if each.waits_since is not None:
            since = oldest.get((each.stream,), each.waits_since)
            oldest[each.stream,] = min(each.waits_since, since)
    yield _gauge(
        "pending",
        "Deliveries that are not final.",
        in_state,
        {(each.stream, each.status.value): each.count for each in pending},
    )
    yield _gauge(
        "oldest_pending_seconds",
        "How long the oldest message that is due and not final has waited.",
        ("stream",),
        {labels: max(0.0, now - since) for labels, since in oldest.items()},
    )
    yield _gauge(
        "oldest_in_state_seconds",
        "How long the oldest message with a delivery in this state has waited.",
        in_state,
        _ages(((each, each.waits_since) for each in due), now),
    )
    yield _gauge(
        "unmoved_in_state_seconds",
        "How long the delivery that moved least recently is as it is.",
        in_state,
        _ages(((each, each.unmoved_since) for each in due), now),
    )


def _ages(since: Iterable[tuple[Pending, float | None]], now: float) -> dict[Labels, float]:
    return {
        (each.stream, each.status.value): max(0.0, now - at) for each, at in since if at is not None
    }


def _ledger(ledger: Ledger) -> Iterator[Metric]:
    yield _gauge(
        "ledger_imbalance",
        "Accepted deliveries less those in a state: 0.",
        (),
        {(): ledger.imbalance},
    )
    yield _counter(
        "deliveries_final",
        "Deliveries that have their last state, by state.",
        ("state",),
        {(state.value,): ledger.states.get(state.value, 0) for state in sorted(FINAL)},
    )
    yield _counter(
        "declared_risks",
        "Deliveries sent again although a provider may have accepted them.",
        (),
        {(): ledger.declared_risks},
    )
    yield _counter(
        "declared_risks_by_provider",
        "The same, by stream and by the provider that may have accepted them.",
        ("stream", "provider"),
        {(each.stream, each.provider): each.count for each in ledger.risks},
    )


def _watched(watch: WatchdogStatus, now_s: float) -> Iterator[Metric]:
    counts: dict[Labels, int] = {(kind,): n for kind, n in watch.counts(now_s).items()}
    yield _gauge("watchdog_alarms", "Faults that last, by kind; in health 0.", ("kind",), counts)
    yield _counter("watchdog_raised", "Alarms raised so far.", ("kind",), watch.raised())
    yield _gauge("event_loop_lag_seconds", "How late the watchdog woke.", (), {(): watch.lag_s})
    if watch.looked_s is not None:
        yield _gauge(
            "watchdog_look_age_seconds",
            "Since the watchdog's latest look into the spool.",
            (),
            {(): max(0.0, now_s - watch.looked_s)},
        )


def _lanes(lanes: Sequence[Lane], now_s: float) -> Iterator[Metric]:
    yield _gauge(
        "breaker_state",
        "1 for the state it is in.",
        ("provider", "state"),
        {
            (lane.name, state.value): lane.breaker_status.value.state is state
            for lane in lanes
            for state in BreakerState
        },
    )

    took = HistogramMetricFamily(
        "mailactors_attempt_seconds",
        "How long attempts took, connection included, by provider.",
        labels=("provider",),
    )
    for lane in lanes:
        took.add_metric((lane.name,), lane.took_s.cumulative(), sum_value=lane.took_s.total)
    yield took

    def by_provider(name: str, help_text: str, value: Callable[[Lane], float]) -> Metric:
        return _gauge(name, help_text, ("provider",), {(each.name,): value(each) for each in lanes})

    yield by_provider("in_flight", "Attempts in a lane.", lambda lane: len(lane.in_flight))
    yield by_provider("paused", "1 if paused by hand.", lambda lane: lane.is_paused)
    yield by_provider(
        "limiter_permits",
        "Permits to be had at once.",
        lambda lane: lane.limiter_status.value.permits,
    )
    yield by_provider(
        "limiter_next_permit_seconds",
        "Until the limiter gives a permit; +Inf while it is paused.",
        lambda lane: max(0.0, lane.limiter_status.value.next_permit_s - now_s),
    )


def _actors(supervisor: Supervisor) -> Iterator[Metric]:
    yield _counter(
        "actor_crashes",
        "Crashes by actor.",
        ("actor",),
        {(each.name,): each.crash_count for each in supervisor.statistics()},
    )
    yield _gauge(
        "mailbox_waiting",
        "Items that wait for an actor.",
        ("actor",),
        {(each.name,): each.waiting for each in supervisor.mailbox_statistics()},
    )


def _counter(name: str, help_text: str, labels: Labels, counts: Mapping[Labels, float]) -> Metric:
    family = CounterMetricFamily(f"mailactors_{name}", help_text, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def _gauge(name: str, help_text: str, labels: Labels, values: Mapping[Labels, float]) -> Metric:
    family = GaugeMetricFamily(f"mailactors_{name}", help_text, labels=labels)
    for of, value in values.items():
        family.add_metric(of, value)
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    buckets, total = histogram.cumulative(), histogram.total
    return HistogramMetricFamily(f"mailactors_{name}", help_text, buckets=buckets, sum_value=total)
