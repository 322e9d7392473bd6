"""A vendor's SMTP server: one connection over a stream in memory, under the vendor's faults.

It reads commands as any server does (RFC 5321, with PIPELINING) and shares no state with the
client. A message whose body has arrived when the connection ends stays accepted.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import trio

from mailactors.model.message import domain_of
from mailactors.providers.smtp.replies import REPLY_OCTETS_MAX
from mailactors.providers.smtp.transport import FINAL_TIMEOUT_S
from mailactors.providers.smtp.verbs import Verb
from mailactors.sim.vendor import answers
from mailactors.sim.vendor.answers import Answer
from mailactors.sim.vendor.call import AttemptObserver, Call
from mailactors.sim.vendor.vendor import REFUSAL_S, Vendor

IDLE_S: Final = 300.0
"""An idle connection is closed after this time (RFC 5321 §4.5.3.2.7)."""
HALF: Final = 0.5
_EXTENSIONS: Final = b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES"
_PATH: Final = re.compile(rb"(?:MAIL FROM|RCPT TO):<([^>]*)>", re.IGNORECASE)
_SUBJECT: Final = re.compile(rb"^Subject: (\d+)\r\n", re.MULTILINE)
_MARKER: Final = re.compile(rb"^X-Mailactors-Id: (\S+)\r\n", re.MULTILINE)
_TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x50\r\n"
_ENDLESS: Final = b"2" * REPLY_OCTETS_MAX
BAD_LOGIN: Final = answers.refusal(535, answers.BAD_KEY.text, answers.BAD_KEY.enhanced, Verb.MAIL)
_THROTTLED: Final = answers.refusal(451, "throttling: too fast", "4.7.0")
_LATER: Final = answers.refusal(451, "temporarily unavailable", "4.3.2")
_IN_SMTP: Final = {
    **dict.fromkeys((400, 413, 422), answers.BAD_CONTENT),
    **dict.fromkeys((401, 402, 403), BAD_LOGIN),
    429: _THROTTLED,
}
"""The SMTP replies for a scenario's HTTP statuses; all others become a 451."""


_VERBS: Final = {"mail": Verb.MAIL, "rcpt": Verb.RCPT, "data": Verb.FINAL}


def account_refusal(reply: str, verb: Verb) -> Answer:
    """Return the answer that a scenario gives as a reply line."""
    code, enhanced, text = reply.split(" ", 2)
    return answers.refusal(int(code), text, enhanced, verb)


class HangUpError(Exception):
    """The connection is closed."""


class SmtpServer:
    """One connection."""

    def __init__(
        self, vendor: Vendor, stream: trio.StapledStream[Any, Any], observer: AttemptObserver
    ) -> None:
        self._vendor = vendor
        self._stream = stream
        self._observer = observer
        self.number: int | None = None
        """The message that the client is about to send. The client sets it, since the draws belong
        to a message and no command before DATA names it."""
        self._buffer = b""
        self._has_sender = False
        self._recipients: list[str] = []

    async def serve(self) -> None:
        """Answer commands until either side hangs up."""
        try:
            await self._reply(b"220 %s ESMTP" % self._vendor.name.encode())
            while True:
                await self._handle(await self._read_until(b"\r\n"))
        except (HangUpError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _handle(self, line: bytes) -> None:
        verb = line[:4].upper()
        match verb:
            case b"EHLO":
                lines = [self._vendor.name.encode(), *_EXTENSIONS]
                last = lines.pop()
                await self._stream.send_all(b"".join(b"250-%s\r\n" % each for each in lines))
                await self._reply(b"250 " + last)
            case b"HELO" | b"NOOP":
                await self._reply(b"250 2.0.0 Ok")
            case b"RSET":
                self._forget()
                await self._reply(b"250 2.0.0 Ok")
            case b"MAIL":
                await self._on_mail()
            case b"RCPT":
                await self._on_rcpt(line)
            case b"DATA":
                await self._on_data()
            case b"QUIT":
                await self._reply(b"221 2.0.0 Bye")
                raise HangUpError
            case _:
                await self._reply(b"502 5.5.1 no such command")

    async def _on_mail(self) -> None:
        vendor = self._vendor
        active = vendor.active()
        if active.refuses or any(flap.is_down(vendor.now_s()) for flap in active.flaps):
            raise HangUpError  # a server that refuses new connections drops pooled ones as well
        self._forget()
        if await self._refuses_account(Verb.MAIL):
            return
        refused = vendor.quota_refusal(active)
        if refused is not None:
            wait_s = refused.retry_after_s or 0.0
            await trio.sleep(REFUSAL_S)
            self._observer.throttled(vendor.name, wait_s)
            await self._reply(b"454 4.7.0 Throttling: again in %d seconds" % math.ceil(wait_s))
            return
        self._has_sender = True
        await self._reply(b"250 2.1.0 Ok")

    async def _on_rcpt(self, line: bytes) -> None:
        found = _PATH.fullmatch(line)
        if found is None or not self._has_sender:
            await self._reply(b"503 5.5.1 MAIL first")
            return
        if await self._refuses_account(Verb.RCPT):
            return
        recipient, number = found[1].decode(), self.number
        refused = None
        if number is not None:
            refused = self._vendor.recipient_refusal(number, domain_of(recipient))
            if refused is not None:
                await trio.sleep(self._vendor.latency_s(number))
        if refused is None:
            self._recipients.append(recipient)
            await self._reply(b"250 2.1.5 Ok")
        else:
            await self._refuse(refused)

    async def _on_data(self) -> None:
        if not self._recipients:
            await self._reply(b"554 5.5.1 no valid recipients")
            return
        await self._reply(b"354 go ahead")
        message = await self._read_until(b"\r\n.\r\n")
        head = message.partition(b"\r\n\r\n")[0] + b"\r\n"
        subject, marker = _SUBJECT.search(head), _MARKER.search(head)
        assert subject, "a message without its number"
        assert marker, "a message without its marker"
        number, recipients = int(subject[1]), tuple(self._recipients)
        self._forget()
        if await self._refuses_account(Verb.FINAL):
            return
        call = self._vendor.begin(
            number, marker[1].decode(), recipients, self._observer, FINAL_TIMEOUT_S
        )
        await self._answer(call)

    async def _answer(self, call: Call) -> None:
        """Accept a message at its time, and reply as its answer says."""
        vendor, answer = self._vendor, call.answer
        if call.taken_s < math.inf:
            await trio.sleep_until(call.taken_s)
            vendor.finish(call, call.taken_s)
        if call.answer_s < math.inf:
            await trio.sleep_until(call.answer_s)
        shape = vendor.shape_of(call)
        match answer.kind:
            case answers.AnswerKind.ACCEPTS:
                await self._reply(b"250 2.0.0 Ok: queued as " + call.id.encode())
            case answers.AnswerKind.REFUSES:
                await self._refuse(answer)
            case answers.AnswerKind.GARBAGE:
                await self._stream.send_all(_TLS_ALERT if shape < HALF else _ENDLESS)
                raise HangUpError
            case answers.AnswerKind.LOST:
                if shape < HALF:
                    await self._stream.send_eof()
                    await self._wait_for_eof()
                raise HangUpError
            case answers.AnswerKind.SILENT:
                await self._wait_for_eof()
                raise HangUpError

    async def _refuses_account(self, verb: Verb) -> bool:
        """Whether the account is refused at this command, which is answered then."""
        auth = self._vendor.refusing(self._vendor.active())
        if auth is None or verb is not _VERBS[auth.verb]:
            return False
        await trio.sleep(REFUSAL_S)
        await self._refuse(BAD_LOGIN if auth.reply is None else account_refusal(auth.reply, verb))
        return True

    async def _refuse(self, answer: Answer) -> None:
        """Refuse; a 421 also closes the connection."""
        if answer.code not in answers.SMTP_CODES:
            answer = _IN_SMTP.get(answer.code, _LATER)
        reply = answers.reply_of(answer)
        await self._reply(b"%d %s" % (reply.code, reply.lines[0]))
        if reply.code == 421:
            raise HangUpError

    def _forget(self) -> None:
        self._has_sender = False
        self._recipients = []

    async def _wait_for_eof(self) -> None:
        while await self._stream.receive_some():
            pass

    async def _read_until(self, end: bytes) -> bytes:
        """Return the bytes before `end`. Raises: HangUpError when it never comes."""
        while end not in self._buffer:
            data: bytes | bytearray = b""
            with trio.move_on_after(IDLE_S):
                data = await self._stream.receive_some()
            if not data:
                raise HangUpError
            self._buffer += bytes(data)
        found, _, self._buffer = self._buffer.partition(end)
        return found

    async def _reply(self, line: bytes) -> None:
        await self._stream.send_all(line + b"\r\n")
