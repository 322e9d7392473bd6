"""The timekeeper: puts right the times on disk that a clock wrote which was ahead of this one.

Where the wall clock is set back, or was ahead while an earlier process ran, due times lie too far
in the future: a retry in a minute would wait for an hour. A row that was written in the future
tells: it is due again after the wait that its rule gave it, counted from now. Doubts are due now,
and the settler's rules say how long each really waits. What is scheduled (`send_at`) stays.

By a clock that was set back a vendor's key seems younger than it is: a doubt's first attempt is
dated back by as much. Where nobody knows by how much, its key is not used any more.

Looks at the start, and again whenever the believed clock went back. Owns nothing, decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from typing import Final

import trio

from mailactors.dispatch.settling import HELD_DELAY_CAP_S, JITTER
from mailactors.runtime.ports import Ports
from mailactors.spool.client import SpoolClient
from mailactors.spool.port import CorrectDoubts, CorrectDue, Corrected, SpoolError

LOOK_EVERY_S: Final = 10.0
BACK_MIN_S: Final = 1.0
"""A clock that goes back by less is not looked after."""
LIMIT: Final = 500
"""Rows of one commit."""
DOUBT_WAIT_MAX_S: Final = HELD_DELAY_CAP_S * (1.0 + JITTER)
"""No rule lets a doubt wait longer before it is looked at again."""


class TimekeeperActor:
    """One loop: look at the clocks, and correct what is on disk if they ask for it.

    Args:
        streams: the streams of which something may be on disk, at the time of the call.
        expect_doubt: tells the settler that something uncertain may be due at a time (UTC).
        is_set_back: whether the clock was behind the newest time on disk when the process started.
    """

    def __init__(
        self,
        spool: SpoolClient,
        streams: Callable[[], Set[str]],
        expect_doubt: Callable[[float], None],
        ports: Ports,
        *,
        is_set_back: bool = False,
    ) -> None:
        self._spool = spool
        self._streams = streams
        self._expect_doubt = expect_doubt
        self._set_back_s = math.inf if is_set_back else 0.0
        self._clock = ports.clock
        self._journal = ports.journal

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Correct now, and again after each time that the clock went back."""
        task_status.started()
        ahead_s, back_s = math.inf, self._set_back_s
        while True:
            latest_s = self._clock.wall_time() - self._clock.now_s()
            if ahead_s < math.inf:
                back_s = ahead_s - latest_s
            if latest_s >= ahead_s - BACK_MIN_S or await self._correct(back_s):
                ahead_s = latest_s
            await trio.sleep(LOOK_EVERY_S)

    async def _correct(self, back_s: float) -> bool:
        """Correct all times on disk after a step back; False if the spool did not answer."""
        count = 0
        try:
            for stream in sorted(self._streams()):
                command = CorrectDue(stream, LIMIT)
                while (found := await self._ask(command)).after is not None:
                    count += found.count
                    command = CorrectDue(stream, LIMIT, found.after)
                count += found.count
            doubts = await self._ask(CorrectDoubts(DOUBT_WAIT_MAX_S, back_s))
        except SpoolError:
            return False
        self._expect_doubt(0.0)
        if count or doubts.count:
            facts = {"deliveries": count, "doubts": doubts.count}
            self._journal.note("clock.corrected", level="warning", **facts)
        return True

    async def _ask(self, command: CorrectDue | CorrectDoubts) -> Corrected:
        corrected = await self._spool.ask(command)
        assert isinstance(corrected, Corrected)
        return corrected
