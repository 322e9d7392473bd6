"""Print what rendering one message costs, ours against the standard library's two ways.

Run `python bench/mime.py`. All three write the same message in the same run, turn by turn, so that
the ratio means something on a busy machine; the figure is the best turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from email import policy
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr, formatdate
from typing import Final

from mailactors.model.message import Address, Attachment, Content
from mailactors.model.mime import check_content, render

_DATE_S: Final = 1_700_000_000.0
_MARKER: Final = "01JABCDEFGHJKMNPQRSTVWXYZ0"
_MESSAGE_ID: Final = f"{_MARKER}@example.com"
_COMPAT32: Final = policy.compat32.clone(linesep="\r\n")
_TEXT: Final = "Dear Ann,\n\nyour order has left our house and arrives on Tuesday.\n\n" * 20
_HTML: Final = f"<html><body><p>{_TEXT.replace(chr(10), '<br>' + chr(10))}</p></body></html>"


def samples() -> dict[str, Content]:
    """Return the messages that are measured, by name."""
    sender, to = Address("shop@example.com", "The Shop"), (Address("ann@example.org", "Ann"),)
    headers = (("List-Unsubscribe", "<https://example.com/unsubscribe?id=0123456789>"),)
    plain = Content(sender=sender, to=to, subject="Your order", text=_TEXT, headers=headers)
    german = Content(
        sender=Address("shop@example.com", "Blumenladen Müller"),
        to=(Address("ann@example.org", "Änne Größe"),),
        subject="Ihre Bestellung von gestern: schöne Grüße aus Köln, und vielen Dank dafür",
        text=_TEXT.replace("Dear", "Schöne Grüße"),
        headers=headers,
    )
    file = Attachment("invoice.pdf", bytes(range(256)) * 400, "application/pdf")
    both = Content(
        sender=sender, to=to, subject="Your order", text=_TEXT, html=_HTML, headers=headers
    )
    with_file = Content(
        sender=sender, to=to, subject="Your order", text=_TEXT, headers=headers, attachments=(file,)
    )
    large = tuple((f"X-{n}", "Grüße " * 200) for n in range(36))
    limit = Content(sender=sender, to=to, subject="Your order", text=_TEXT, headers=large)
    return {
        "text": plain,
        "text, not ASCII": german,
        "text + HTML": both,
        "text + 100 KiB": with_file,
        "headers, 95 KiB": limit,
    }


def ours(content: Content) -> bytes:
    """Render with the code under test."""
    return render(content, message_id=_MESSAGE_ID, date_s=_DATE_S, marker=_MARKER)


def door(content: Content) -> bytes:
    """Check as intake does, once a message."""
    check_content(content)
    return b""


def email_message(content: Content) -> bytes:
    """Render with `email.message.EmailMessage`, the library's present way."""
    message = EmailMessage(policy=policy.SMTP)
    message["Date"] = formatdate(_DATE_S)
    message["From"] = _header_address(content.sender)
    message["To"] = [_header_address(address) for address in content.to]
    message["Message-ID"] = f"<{_MESSAGE_ID}>"
    message["Subject"] = content.subject
    message["X-Mailactors-Id"] = _MARKER
    for name, value in content.headers:
        message[name] = value
    message.set_content(content.text or "")
    if content.html is not None:
        message.add_alternative(content.html, subtype="html")
    for file in content.attachments:
        maintype, _, subtype = file.content_type.partition("/")
        message.add_attachment(file.content, maintype, subtype, filename=file.filename)
    return message.as_bytes()


def _header_address(address: Address) -> HeaderAddress:
    return HeaderAddress(address.name, addr_spec=address.address)


def mime_text(content: Content) -> bytes:
    """Render with `MIMEText` and `MIMEMultipart`, the library's old and faster way."""
    message: MIMEText | MIMEMultipart = _mime_text(content.text or "", "plain")
    if content.html is not None:
        message = MIMEMultipart("alternative", None, [message, _mime_text(content.html, "html")])
    if content.attachments:
        message = MIMEMultipart("mixed", None, [message])
    for file in content.attachments:
        part = MIMEApplication(file.content, file.content_type.partition("/")[2])
        part.add_header("Content-Disposition", "attachment", filename=file.filename)
        message.attach(part)
    message["Date"] = formatdate(_DATE_S)
    message["From"] = formataddr((content.sender.name, content.sender.address))
    message["To"] = ", ".join(formataddr((item.name, item.address)) for item in content.to)
    message["Message-ID"] = f"<{_MESSAGE_ID}>"
    message["Subject"] = content.subject
    message["X-Mailactors-Id"] = _MARKER
    for name, value in content.headers:
        message[name] = value
    return message.as_bytes(policy=_COMPAT32)


def _mime_text(text: str, subtype: str) -> MIMEText:
    return MIMEText(text, subtype, "us-ascii" if text.isascii() else "utf-8")


def best_us(work: list[Callable[[Content], bytes]], content: Content, turns: int) -> list[float]:
    """Return the least microseconds of a call, for each function, over alternating turns."""
    best = [float("inf")] * len(work)
    for _ in range(turns):
        for index, function in enumerate(work):
            started = time.perf_counter()
            for _ in range(20):
                function(content)
            best[index] = min(best[index], (time.perf_counter() - started) / 20 * 1e6)
    return best


def main() -> None:
    """Measure each sample and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=25, help="of 20 calls each (default: 25)")
    turns = parser.parse_args().turns
    ratios = "EmailMessage/render  MIMEText/render"
    print(f"{'microseconds':<16} render  check  EmailMessage  MIMEText  {ratios}")
    for name, content in samples().items():
        own, checked, new, old = best_us([ours, door, email_message, mime_text], content, turns)
        print(
            f"{name:<16} {own:6.1f} {checked:6.1f} {new:13.1f} {old:9.1f}"
            f"  {new / own:19.1f}  {old / own:15.1f}"
        )


if __name__ == "__main__":
    main()
