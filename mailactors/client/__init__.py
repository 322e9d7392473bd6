"""A client for programs: `send`, `send_many`, `status`, `wait`, `events`; on asyncio and on Trio.

    async with Client() as client:
        sent = await client.send(to="bob@example.com", subject="Hello", text="A test.")
        print(await client.wait(sent.id))

**One call is one message.** A submission keeps its idempotency key on each retry, so when an answer
is lost, the retry makes no second message. The key is random, once a call. A job that may run again
after a crash gives each message an `id`: that is its key for a day (`Sent.is_replay` says when it
was accepted before). `key="content"` takes the same content within a minute for one message, by
whatever call. Such a call ends its tries within that minute, whatever `retry_for_s` is.

It retries what may pass: no connection, no answer in time, and the statuses in `wire.RETRIED`, for
`retry_for_s`. It starts no task and imports nothing of the gateway. `mailactors.client.sync` is the
same without await.
"""

from mailactors.client.calls import DEFAULT_URL as DEFAULT_URL
from mailactors.client.client import Client as Client
from mailactors.client.retry import Backoff as Backoff
from mailactors.client.values import Address as Address
from mailactors.client.values import Alternative as Alternative
from mailactors.client.values import Attachment as Attachment
from mailactors.client.values import ClientError as ClientError
from mailactors.client.values import Delivery as Delivery
from mailactors.client.values import Event as Event
from mailactors.client.values import Fault as Fault
from mailactors.client.values import Key as Key
from mailactors.client.values import KeyConflictError as KeyConflictError
from mailactors.client.values import Mail as Mail
from mailactors.client.values import NotAGatewayError as NotAGatewayError
from mailactors.client.values import NotDoneError as NotDoneError
from mailactors.client.values import NotFoundError as NotFoundError
from mailactors.client.values import Problem as Problem
from mailactors.client.values import RejectedError as RejectedError
from mailactors.client.values import Sent as Sent
from mailactors.client.values import Status as Status
from mailactors.client.values import UnavailableError as UnavailableError
