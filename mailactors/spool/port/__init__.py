"""The spool's port: every command with its result, the questions, the errors, and the store.

Commands are values, so that a group of them can be replayed one by one after a crash: each is
idempotent by the ids that it carries. A store executes them synchronously; `spool.actor` decides
when, and answers nobody before the commit. Times are UTC seconds and come from the caller: a
store never asks for the time.
"""

from __future__ import annotations

from mailactors.spool.port.accept import *
from mailactors.spool.port.acts import *
from mailactors.spool.port.clocks import *
from mailactors.spool.port.command import *
from mailactors.spool.port.deliver import *
from mailactors.spool.port.doubts import *
from mailactors.spool.port.inspection import *
from mailactors.spool.port.lists import *
from mailactors.spool.port.questions import *
from mailactors.spool.port.retention import *
from mailactors.spool.port.retry import *
from mailactors.spool.port.settle import *
from mailactors.spool.port.store import *
from mailactors.spool.port.suppressions import *
from mailactors.spool.port.upkeep import *
