"""What any store must do: a suite that each one passes by subclassing `SpoolContract`."""

from __future__ import annotations

from tests.spool.contract_accept import AcceptContract
from tests.spool.contract_bunches import BunchesContract
from tests.spool.contract_lists import ListsContract
from tests.spool.contract_outcomes import OutcomesContract
from tests.spool.contract_questions import QuestionsContract
from tests.spool.contract_retention import RetentionContract
from tests.spool.contract_retry import RetryContract
from tests.spool.contract_settlement import SettlementContract
from tests.spool.contract_suppressions import SuppressionsContract
from tests.spool.contract_upkeep import UpkeepContract
from tests.spool.contract_walk import WalkContract


class SpoolContract(
    AcceptContract,
    OutcomesContract,
    BunchesContract,
    UpkeepContract,
    SettlementContract,
    RetryContract,
    SuppressionsContract,
    RetentionContract,
    QuestionsContract,
    ListsContract,
    WalkContract,
):
    """Subclass it as `Test…` with `make_store`; `check` may look at more than the port shows."""
