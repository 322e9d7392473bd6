"""When and where a message is tried next. Plain functions: facts in, decision out.

A *round* is one pass over the lanes that would take the message. Waiting for a permit, a free slot
or an open breaker is no round and no attempt.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, assert_never

import msgspec

from mailactors.dispatch.waits import RETRY_AFTER_MAX_S, asked_wait_s, wait_within_s
from mailactors.model.lifecycle import State
from mailactors.model.outcome import (
    Accepted,
    Deferred,
    NotAttempted,
    Outcome,
    Reason,
    Rejected,
    Scope,
    Uncertain,
    split_by_recipient,
)
from mailactors.spool.port import Lease, Progress, Step


class RetryRow(msgspec.Struct, frozen=True):
    """After a failed round: wait between `delay_s` and `wait_max_s`."""

    round: int
    delay_s: float
    wait_max_s: float


TABLE: Final = (
    RetryRow(1, 1.0, 1.0),
    RetryRow(2, 2.0, 4.0),
    RetryRow(3, 4.0, 16.0),
    RetryRow(4, 8.0, 32.0),
)
TAIL_BASE_S: Final = 64.0
"""The tail after the table starts here and doubles, with full jitter, up to the cap."""
TAIL_CAP_S: Final = 600.0
RETRY_AFTER_JITTER: Final = 0.1
"""What a recipient's side asks for is a lower bound, stretched by at most this share."""
THROTTLES_MAX: Final = 10
"""Refusals as too fast in a row after which a message gives up its place at a lane."""
SPILL_AFTER_S: Final = 2.0
"""Two seconds' worth of a quota pass before a message leaves a healthy provider: bursts stay."""
RECIPIENT_WAIT_MIN_S: Final = 60.0
"""A mailbox that cannot take mail now cannot in a second (RFC 5321 §4.5.4.1 asks for more)."""


class Failover(enum.StrEnum):
    """Where a message goes after a failure that is the provider's."""

    IMMEDIATE = "immediate"
    """To the next lane at once; the table spaces rounds over all lanes."""
    AFTER_RETRIES = "after_retries"
    """To the same lane again, spaced by the table; to the next after the table's last row."""


class Preference(enum.StrEnum):
    """What to do with an uncertain message when no evidence settled it."""

    RESEND = "resend"
    HOLD = "hold"


class StreamPolicy(msgspec.Struct, frozen=True):
    """What a stream asks for, as far as a decision needs it. `route` names lanes in order.

    `own_envelope` are those of its lanes that may send to some of a message's recipients only;
    None for all of them.
    """

    route: tuple[str, ...]
    failover: Failover = Failover.IMMEDIATE
    on_uncertain: Preference = Preference.RESEND
    uncertain_wait_s: float = 60.0
    share: float = 1.0
    own_envelope: tuple[str, ...] | None = None
    spill_after_s: float = SPILL_AFTER_S

    @property
    def patience_s(self) -> float:
        """For how long a message waits for its preferred lane as long as that one is well."""
        return float("inf") if self.failover is Failover.AFTER_RETRIES else self.spill_after_s

    def carrying(self, recipients_count: int, recipients_total: int) -> StreamPolicy:
        """Return the plan with the lanes that can carry so many of a message's recipients."""
        if recipients_count == recipients_total or self.own_envelope is None:
            return self
        return msgspec.structs.replace(self, route=self.own_envelope)


class Decision(msgspec.Struct, frozen=True):
    """What follows an outcome: a step for each delivery of the attempt.

    Deliveries whose step is `leased` go on at once, under the same lease and `progress`. `rule` is
    the sentence that the timeline shows.
    """

    steps: tuple[Step, ...]
    progress: Progress
    rule: str

    @property
    def next_due_at(self) -> float | None:
        """When the earliest deferred delivery is due, or None."""
        return min((s.due_at for s in self.steps if s.state is State.DEFERRED), default=None)

    @property
    def next_doubt_at(self) -> float | None:
        """When the earliest uncertain delivery is due to be settled, or None."""
        return min((s.due_at for s in self.steps if s.state is State.UNCERTAIN), default=None)


def retry_delay_s(round_number: int, draw: float) -> float:
    """Return how long to wait after the given round failed, `draw` being in [0, 1).

    Rounds 1 to 4: uniform over [delay, max wait] of the table. Round n > 4: full jitter over
    [0, min(TAIL_CAP_S, TAIL_BASE_S · 2^(n-5))).

    >>> [retry_delay_s(n, 0.5) for n in (1, 2, 3, 4, 5, 6, 60)]
    [1.0, 3.0, 10.0, 20.0, 32.0, 64.0, 300.0]

    Source: the jitter comparison of AWS's "Exponential Backoff and Jitter".
    """
    assert round_number >= 1
    if round_number <= len(TABLE):
        row = TABLE[round_number - 1]
        return row.delay_s + draw * (row.wait_max_s - row.delay_s)
    doublings = min(round_number - len(TABLE) - 1, 16)
    return draw * min(TAIL_CAP_S, TAIL_BASE_S * 2.0**doublings)


def candidates(plan: StreamPolicy, progress: Progress) -> tuple[str, ...]:
    """Return the lanes that may be asked now, the preferred one first.

    Empty only when every lane refused the message itself. A lane that was tried in this round is
    asked again only when no other is left, as after a reload that removed one.
    """
    left = [lane for lane in plan.route if lane not in progress.barred]
    untried = [lane for lane in left if lane not in progress.tried] or left
    if progress.prefer in untried:
        untried.remove(progress.prefer)
        untried.insert(0, progress.prefer)
    return tuple(untried)


class NextTry(msgspec.Struct, frozen=True):
    """Where a message goes when this lane did not take it but another, or a later try, may."""

    state: State
    """`leased`: at once; `deferred`: after `wait_s`; `failed`: every lane refused it."""
    wait_s: float
    progress: Progress
    rule: str


def decide_next(
    lease: Lease,
    recipients: Sequence[tuple[int, str]],
    lane: str,
    outcome: Outcome,
    plan: StreamPolicy,
    now: float,
    draw: float,
    *,
    is_own_limit: bool = False,
) -> Decision:
    """Say what becomes of each delivery of an attempt through `lane` that ended in `outcome`.

    Args:
        lease: the message, with its progress before this attempt.
        recipients: (n, address) of the deliveries that this attempt was for.
        now: UTC seconds.
        draw: chance in [0, 1) for this message and attempt.
        is_own_limit: whether the lane refused it as too fast while it accepted others.
    """
    apart = split_by_recipient(outcome, [address for _, address in recipients])
    elsewhere = [each for each in apart.values() if is_worth_another_lane(each)]
    waiting = [each for each in apart.values() if is_recipients_own(each)]
    progress, rule, onward = lease.progress, f"the provider's answer: {outcome_word(outcome)}", None
    if elsewhere:
        able = plan.carrying(len(elsewhere), lease.recipients_total)
        onward = decide_onward(progress, lane, elsewhere, able, draw, is_own_limit=is_own_limit)
        progress, rule = onward.progress, onward.rule
    elif waiting:
        progress = next_round(progress, prefer=lane)
        rule = "the recipient's side deferred: wait, then the same provider first"
    wait_s = max(RECIPIENT_WAIT_MIN_S, retry_delay_s(lease.progress.round, draw))
    jitter = 1.0 + RETRY_AFTER_JITTER * draw
    steps = [
        decide_step(n, apart[address], onward, now, wait_s, jitter, plan, lease.expires_at)
        for n, address in recipients
    ]
    return Decision(tuple(steps), progress, rule)


def decide_step(
    n: int,
    outcome: Outcome,
    onward: NextTry | None,
    now: float,
    wait_s: float,
    jitter: float,
    plan: StreamPolicy,
    expires_at: float = float("inf"),
) -> Step:
    """Say what becomes of one delivery.

    `wait_s` is for a recipient whose side deferred; what it asked for is stretched by `jitter`.
    No wait outlives the message: it is tried once more before its deadline.
    """
    match outcome:
        case Accepted():
            return Step(n, State.SENT)
        case Uncertain(reason=reason):
            return Step(n, State.UNCERTAIN, now + plan.uncertain_wait_s, reason_line(reason))
        case Rejected(scope=Scope.RECIPIENT | Scope.DOMAIN, reason=reason, is_sure=True):
            return Step(n, State.BOUNCED, error=reason_line(reason))
        case Deferred(scope=Scope.RECIPIENT | Scope.DOMAIN, reason=reason, at_once=False):
            asked_s = max(wait_s, asked_wait_s(outcome.retry_after_s, jitter))
            due_at = now + wait_within_s(asked_s, expires_at - now)
            return Step(n, State.DEFERRED, due_at, reason_line(reason))
        case Deferred(reason=reason) | Rejected(reason=reason):
            assert onward is not None
            is_recipients = outcome.scope in {Scope.RECIPIENT, Scope.DOMAIN}
            has_bounced = onward.state is State.FAILED and is_recipients
            state = State.BOUNCED if has_bounced else onward.state
            due_at = now + wait_within_s(onward.wait_s, expires_at - now)
            return Step(n, state, due_at, reason_line(reason))
        case NotAttempted():
            raise AssertionError("what was not attempted has no outcome to decide on")
        case _:
            assert_never(outcome)


def decide_onward(
    progress: Progress,
    lane: str,
    outcomes: Sequence[Outcome],
    plan: StreamPolicy,
    draw: float,
    *,
    is_own_limit: bool = False,
) -> NextTry:
    """Say where deliveries go that `lane` did not take for a reason of its own or the message's.

    A throttled message keeps its place, `THROTTLES_MAX` times in a row at most: the limiter has
    learnt of it before this, and closed the lane. One that met a limit of its own goes to the next
    lane at once, and waits on disk after the last. A mixed answer bars nothing, or what was only
    deferred would fail with the last lane.
    """
    if all(isinstance(each, Deferred) and each.at_once for each in outcomes):
        rule = "not refused: the rest goes in a transaction of its own, at once"
        return NextTry(State.LEASED, 0.0, progress, rule)
    throttled = [each for each in outcomes if isinstance(each, Deferred) and each.throttled]
    if len(throttled) == len(outcomes):
        throttles = progress.throttles + 1
        if not is_own_limit and throttles < THROTTLES_MAX:
            rule = "throttled: the lane waits, the message keeps its place"
            kept = msgspec.structs.replace(progress, throttles=throttles)
            return NextTry(State.LEASED, 0.0, kept, rule)
        why = "throttled while others are accepted" if is_own_limit else "throttled too often"
        tried = Progress(progress.round, (*progress.tried, lane), progress.barred)
        onward = _next_lane(tried, plan, draw, why)
        if onward.state is State.LEASED:
            return onward
        asked_s = min(max(each.retry_after_s or 0.0 for each in throttled), RETRY_AFTER_MAX_S)
        return msgspec.structs.replace(onward, wait_s=max(onward.wait_s, asked_s))
    if all(is_refusal_of_message(each) for each in outcomes):
        return _bar(progress, lane, plan, draw)
    tries_here = progress.lane_tries if progress.prefer == lane else 0
    if plan.failover is Failover.AFTER_RETRIES and tries_here < len(TABLE):
        tries = tries_here + 1
        again = msgspec.structs.replace(progress, lane_tries=tries, prefer=lane)
        rule = f"the provider failed: retry {tries} of {len(TABLE)} with it"
        return NextTry(State.DEFERRED, retry_delay_s(tries, draw), again, rule)
    tried = Progress(progress.round, (*progress.tried, lane), progress.barred)
    return _next_lane(tried, plan, draw, "the provider failed")


def decide_resend(progress: Progress, lane: str, plan: StreamPolicy, draw: float) -> NextTry:
    """Say where an uncertain message goes that `lane` may have accepted, once it is sent again.

    To a lane that has not had it, at once. Where each lane had it the round is over, and the next
    one begins after the table's delay: lanes that all lose their answers must not repeat a message
    in a tight loop.
    """
    tried = tuple(dict.fromkeys((*progress.tried, lane)))
    after = Progress(progress.round, tried, progress.barred)
    return _next_lane(after, plan, draw, "the answer was lost")


def _bar(progress: Progress, lane: str, plan: StreamPolicy, draw: float) -> NextTry:
    """Leave out a lane that refused the message itself: each other lane is asked once.

    When none is left these deliveries have failed. Others of the message, which wait for reasons of
    their own, will begin afresh: none of the refusals was of them.
    """
    barred = Progress(progress.round, progress.tried, (*progress.barred, lane))
    if all(each in barred.barred for each in plan.route):
        afresh = Progress(progress.round + 1)
        return NextTry(State.FAILED, 0.0, afresh, "every provider refused the message")
    return _next_lane(barred, plan, draw, "the provider refused the message")


def _next_lane(progress: Progress, plan: StreamPolicy, draw: float, why: str) -> NextTry:
    """Go on with a lane that this round has not tried, or begin the next round after a delay."""
    spent = {*progress.tried, *progress.barred}
    if any(each not in spent for each in plan.route):
        return NextTry(State.LEASED, 0.0, progress, f"{why}: next lane at once")
    rounds = progress.round
    if plan.failover is Failover.AFTER_RETRIES:
        rounds = max(rounds, len(TABLE) + 1)  # the table was walked on each lane already
    wait_s = retry_delay_s(rounds, draw)
    after = msgspec.structs.replace(next_round(progress), round=rounds + 1)
    return NextTry(State.DEFERRED, wait_s, after, f"{why}: round {progress.round} is over")


def next_round(progress: Progress, prefer: str = "") -> Progress:
    """Return the progress with which the following round begins."""
    return Progress(round=progress.round + 1, barred=progress.barred, prefer=prefer)


def is_recipients_own(outcome: Outcome) -> bool:
    """Whether the recipient's side deferred, so that no other provider would fare better."""
    return (
        isinstance(outcome, Deferred)
        and outcome.scope in {Scope.RECIPIENT, Scope.DOMAIN}
        and not outcome.at_once
    )


def is_bounce(outcome: Outcome) -> bool:
    """Whether the recipient's side refused for good, which only a working provider can report."""
    return isinstance(outcome, Rejected) and outcome.scope in {Scope.RECIPIENT, Scope.DOMAIN}


def is_refusal_of_message(outcome: Outcome) -> bool:
    """Whether this lane will not take these deliveries, however often it is asked."""
    return isinstance(outcome, Rejected) and (outcome.scope is Scope.MESSAGE or not outcome.is_sure)


def is_worth_another_lane(outcome: Outcome) -> bool:
    """Whether these deliveries go on at once: the failure is not known to be the recipient's."""
    if not isinstance(outcome, Deferred | Rejected):
        return False
    is_open = outcome.at_once if isinstance(outcome, Deferred) else not outcome.is_sure
    return outcome.scope in {Scope.PROVIDER, Scope.MESSAGE} or is_open


def outcome_word(outcome: Outcome) -> str:
    """Return an outcome's name for tables and timelines."""
    match outcome:
        case Accepted():
            return "accepted"
        case Deferred():
            return "throttled" if outcome.throttled else "deferred"
        case Rejected():
            return "rejected"
        case Uncertain():
            return "uncertain"
        case NotAttempted():
            return "not attempted"
        case _:
            assert_never(outcome)


def reason_line(reason: Reason) -> str:
    """Return a reason in one line: codes, then words.

    >>> reason_line(Reason("no such user", 550, "5.1.1"))
    '550 5.1.1 no such user'
    """
    codes = [str(part) for part in (reason.code, reason.enhanced) if part]
    return " ".join([*codes, reason.text])
