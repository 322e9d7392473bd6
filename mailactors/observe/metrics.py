"""Metrics in Prometheus's text format, made at each scrape from what the rooms count anyway.

It reads tallies, histograms and statistics, and asks the spool once a scrape. Labels are streams,
providers, states, actors and words of this program; never a client's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from mailactors.dispatch.dispatcher import DispatcherState
from mailactors.dispatch.lane import BreakerState, Lane
from mailactors.dispatch.lanes import Lanes
from mailactors.intake.door import Door
from mailactors.model.lifecycle import Status
from mailactors.observe.watchdog import WatchdogStatus
from mailactors.runtime.mailbox import MailboxStatistics
from mailactors.runtime.ports import Clock
from mailactors.runtime.supervisor import ChildStatistics, Supervisor
from mailactors.runtime.tally import Histogram
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import Ledger, Questions


class Gauges(Protocol):
    """What a scrape looks at; a gateway has all of it."""

    door: Door
    dispatcher: DispatcherState
    lanes: Lanes
    supervisor: Supervisor
    spool: SpoolClient
    watch: WatchdogStatus

    @property
    def clock(self) -> Clock:
        """The service's clock."""
        ...


class Backlog:
    """What the spool is asked at a scrape."""

    def __init__(self, spool: Questions, now: float) -> None:
        self.pending = spool.pending(now)
        self.ledger = spool.ledger()


async def expose(gauges: Gauges) -> bytes:
    """Return everything as text, version 0.0.4."""
    backlog = await gauges.spool.read(partial(Backlog, now=gauges.clock.wall_time()))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(list(collect(gauges, backlog))))
    return generate_latest(registry)


class _Snapshot:
    """Hands ready-made families to prometheus_client."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


def collect(gauges: Gauges, backlog: Backlog) -> Iterator[Metric]:
    """Yield every family."""
    yield _counter(
        "mailactors_submissions",
        "Submissions by result.",
        ("result",),
        gauges.door.results.counts,
    )
    yield _counter(
        "mailactors_attempts",
        "Attempts by provider and outcome.",
        ("provider", "outcome"),
        gauges.lanes.attempts.counts,
    )
    yield _counter(
        "mailactors_shortages",
        "Descriptors, memory, threads or ports that were lacking, by provider or `api`.",
        ("where",),
        gauges.lanes.shortages.counts.counts,
    )
    yield _histogram(
        "mailactors_retry_decision_seconds",
        "From a failure's last byte or timeout to the decision on what follows.",
        gauges.dispatcher.decided_s,
    )
    yield _histogram(
        "mailactors_retry_recorded_seconds",
        "From a failure's last byte or timeout until that decision was durable.",
        gauges.dispatcher.recorded_s,
    )
    yield _histogram(
        "mailactors_commit_commands", "Commands that shared a commit.", gauges.spool.signals.commits
    )
    yield from _backlog(backlog, gauges.clock.wall_time())
    yield from _lanes(gauges.lanes.values(), gauges.clock.now_s())
    yield from _actors(gauges.supervisor.statistics(), gauges.supervisor.mailbox_statistics())
    yield from _watched(gauges.watch, gauges.clock.now_s())


def _backlog(backlog: Backlog, now: float) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "mailactors_pending", "Deliveries that are not final.", labels=("stream", "state")
    )
    by_state = GaugeMetricFamily(
        "mailactors_oldest_in_state_seconds",
        "How long the oldest message with a delivery in this state has waited.",
        labels=("stream", "state"),
    )
    unmoved = GaugeMetricFamily(
        "mailactors_unmoved_in_state_seconds",
        "How long the delivery that moved least recently is as it is.",
        labels=("stream", "state"),
    )
    oldest: dict[str, float] = {}
    for each in backlog.pending:
        labels = (each.stream, each.status.value)
        depth.add_metric(labels, each.count)
        if each.status is Status.SCHEDULED:
            continue  # it is not due
        by_state.add_metric(labels, max(0.0, now - each.waits_since))
        unmoved.add_metric(labels, max(0.0, now - each.unmoved_since))
        oldest[each.stream] = min(each.waits_since, oldest.get(each.stream, each.waits_since))
    age = GaugeMetricFamily(
        "mailactors_oldest_pending_seconds",
        "How long the oldest message that is due and not final has waited.",
        labels=("stream",),
    )
    for stream, waits_since in oldest.items():
        age.add_metric((stream,), max(0.0, now - waits_since))
    yield from (depth, age, by_state, unmoved)
    yield from _ledger(backlog.ledger)


def _ledger(ledger: Ledger) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "mailactors_ledger_imbalance",
        "Accepted deliveries less those in a state: 0.",
        ledger.imbalance,
    )
    yield CounterMetricFamily(
        "mailactors_declared_risks",
        "Deliveries sent again although a provider may have accepted them.",
        ledger.declared_risks,
    )
    yield _counter(
        "mailactors_declared_risks_by_provider",
        "The same, by stream and by the provider that may have accepted them.",
        ("stream", "provider"),
        {(each.stream, each.provider): each.count for each in ledger.risks},
    )


def _watched(watch: WatchdogStatus, now_s: float) -> Iterator[Metric]:
    alarms = GaugeMetricFamily(
        "mailactors_watchdog_alarms", "Faults that last, by kind; in health 0.", labels=("kind",)
    )
    for kind, count in watch.counts(now_s).items():
        alarms.add_metric((kind,), count)
    yield alarms
    yield _counter("mailactors_watchdog_raised", "Alarms raised so far.", ("kind",), watch.raised())
    yield GaugeMetricFamily(
        "mailactors_event_loop_lag_seconds", "How late the watchdog woke.", watch.lag_s
    )
    if watch.looked_s is not None:
        yield GaugeMetricFamily(
            "mailactors_watchdog_look_age_seconds",
            "Since the watchdog's latest look into the spool.",
            max(0.0, now_s - watch.looked_s),
        )


def _lanes(lanes: Iterable[Lane], now_s: float) -> Iterator[Metric]:
    gate = GaugeMetricFamily(
        "mailactors_breaker_state",
        "1 for the state it is in.",
        labels=("provider", "state"),
    )
    in_flight = GaugeMetricFamily(
        "mailactors_in_flight", "Attempts in a lane.", labels=("provider",)
    )
    paused = GaugeMetricFamily("mailactors_paused", "1 if paused by hand.", labels=("provider",))
    permits = GaugeMetricFamily(
        "mailactors_limiter_permits", "Permits to be had at once.", labels=("provider",)
    )
    next_permit = GaugeMetricFamily(
        "mailactors_limiter_next_permit_seconds",
        "Until the limiter gives a permit; +Inf while it is paused.",
        labels=("provider",),
    )
    for lane in lanes:
        limiter = lane.limiter_status.value
        permits.add_metric((lane.name,), limiter.permits)
        next_permit.add_metric((lane.name,), max(0.0, limiter.next_permit_s - now_s))
        for state in BreakerState:
            gate.add_metric((lane.name, state.value), lane.breaker_status.value.state is state)
        in_flight.add_metric((lane.name,), len(lane.in_flight))
        paused.add_metric((lane.name,), lane.is_paused)
    yield from (gate, in_flight, paused, permits, next_permit)


def _actors(
    children: Sequence[ChildStatistics], mailboxes: Sequence[MailboxStatistics]
) -> Iterator[Metric]:
    crashes: dict[tuple[str, ...], int] = {(c.name,): c.crash_count for c in children}
    yield _counter("mailactors_actor_crashes", "Crashes by actor.", ("actor",), crashes)
    waiting = GaugeMetricFamily(
        "mailactors_mailbox_waiting", "Items that wait for an actor.", labels=("actor",)
    )
    for mailbox in mailboxes:
        waiting.add_metric((mailbox.name,), mailbox.waiting)
    yield waiting


def _counter(
    name: str, help_text: str, labels: tuple[str, ...], counts: Mapping[tuple[str, ...], int]
) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family


def _histogram(name: str, help_text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        name, help_text, buckets=histogram.cumulative(), sum_value=histogram.total
    )
