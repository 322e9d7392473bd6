"""A client for programs: `send`, `send_many`, `status`, `wait`, `events`; on asyncio and on Trio.

    async with Client() as client:
        sent = await client.send(to="bob@example.com", subject="Hello", text="A test.")
        print(await client.wait(sent.id))

**One call is one message.** Every submission has an idempotency key, chosen once a call and the
same on each retry; so when an answer is lost, the retry makes no second message.

**One content is one message too**, by default: the key is the SHA-256 of what is sent, so a job
that runs again after a crash does not mail again. The price: the same text to the same recipients
within the gateway's window (24 h) is one message, even if the first has bounced since;
`Sent.is_replay` says so. A program that means to repeat a message passes `key=Key.FRESH`, or gives
each message an `id`. This is the default because a merge can be seen and undone, and a second
message cannot.

It retries what may pass: no connection, no answer in time, and the statuses in `wire.RETRIED`, for
`retry_for_s`. It starts no task and imports nothing of the gateway.
"""

from mailactors.client.client import DEFAULT_URL, Client
from mailactors.client.retry import Backoff
from mailactors.client.values import (
    Address,
    Alternative,
    Attachment,
    ClientError,
    Delivery,
    Event,
    Fault,
    Key,
    KeyConflictError,
    Mail,
    NotAGatewayError,
    NotDoneError,
    NotFoundError,
    Problem,
    RejectedError,
    Sent,
    Status,
    UnavailableError,
)

__all__ = [
    "DEFAULT_URL",
    "Address",
    "Alternative",
    "Attachment",
    "Backoff",
    "Client",
    "ClientError",
    "Delivery",
    "Event",
    "Fault",
    "Key",
    "KeyConflictError",
    "Mail",
    "NotAGatewayError",
    "NotDoneError",
    "NotFoundError",
    "Problem",
    "RejectedError",
    "Sent",
    "Status",
    "UnavailableError",
]
