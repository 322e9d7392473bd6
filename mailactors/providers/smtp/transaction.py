"""What a server has said about one message so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailactors.providers.smtp.replies import SmtpReply


@dataclass
class Transaction:
    """What the server has said about one message so far; None: nothing."""

    recipients: tuple[str, ...]
    mail: SmtpReply | None = None
    answers: dict[str, SmtpReply] = field(default_factory=dict)
    data: SmtpReply | None = None
    final: SmtpReply | None = None
    closing: SmtpReply | None = None
    """A 421 that came when nothing was asked."""
    is_read_together: bool = False
    """A 421 at RCPT came in one read with the 250 before it."""

    @property
    def accepted(self) -> list[str]:
        """The recipients that the server took, in our order; none after a refused MAIL."""
        if self.mail is None or not self.mail.is_positive:
            return []
        return [r for r, reply in self.answers.items() if reply.is_positive]
