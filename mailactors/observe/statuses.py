"""Messages as a table on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import rich.table


def statuses_table(statuses: Iterable[Mapping[str, Any]]) -> rich.table.Table:
    """Return the table of the messages that `/statuses` answers with."""
    table = rich.table.Table()
    titles = ("id", "client id", "to", "status", "provider", "attempts", "updated", "error")
    for title in titles:
        table.add_column(title, overflow="fold")  # an id that is cut is of no use
    for each in statuses:
        recipients = ", ".join(each["to"]) if isinstance(each["to"], list) else each["to"]
        cells = (each["id"], each["client_id"], recipients, each["status"], each["provider"])
        table.add_row(*cells, str(each["attempts"]), each["updated_at"], each["error"])
    return table
