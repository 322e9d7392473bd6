"""What a relay's refusal means: the table. The first row that fits a reply is what it means.

Words come before codes, because relays refuse the submitter, a sender or a rate at any command with
any 5yz; the rows about one mailbox come before those about everybody. A new server's habit is a new
row, with its source. Real replies stand beside what is made of them in
`tests/providers/smtp_replies.py`.

Source: RFC 5321 §4.2.2-3, §4.5.3.1.10; RFC 3463; RFC 4954 §6; RFC 6647; RFC 7504; each row's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mailactors.model.outcome import Scope
from mailactors.providers.smtp.replies import SmtpReply
from mailactors.providers.smtp.verbs import Verb

GREYLIST_RETRY_S: Final = 300.0
"""What greylisting servers commonly ask for (RFC 6647 §5, item 1; Postgrey's default)."""
HOUR_RETRY_S: Final = 300.0
"""After a limit on the hour: it may end at any minute of it."""
DAY_RETRY_S: Final = 1800.0
"""After a limit on the day, or on what was paid for. Short, since a text can be misread."""


@dataclass(frozen=True)
class Ruling:
    """What one row says.

    `is_sure` and `at_once` are those of the outcome (`model.outcome`). `is_senders`: it is the
    sender's as soon as another sender gets through, and then the message is refused for good.
    """

    is_final: bool
    scope: Scope
    throttled: bool = False
    retry_after_s: float | None = None
    is_sure: bool = True
    at_once: bool = False
    is_senders: bool = False


LATER_RECIPIENT: Final = Ruling(False, Scope.RECIPIENT)
LATER_DOMAIN: Final = Ruling(False, Scope.DOMAIN)
LATER_MESSAGE: Final = Ruling(False, Scope.MESSAGE)
"""The next lane at once; nothing is final, and this lane is not blamed."""
LATER_PROVIDER: Final = Ruling(False, Scope.PROVIDER)
GREYLISTED: Final = Ruling(False, Scope.RECIPIENT, retry_after_s=GREYLIST_RETRY_S)
THROTTLED: Final = Ruling(False, Scope.PROVIDER, throttled=True)
THROTTLED_HOUR: Final = Ruling(False, Scope.PROVIDER, True, HOUR_RETRY_S)
THROTTLED_DAY: Final = Ruling(False, Scope.PROVIDER, True, DAY_RETRY_S)
NOT_THIS_SENDER: Final = Ruling(False, Scope.PROVIDER, is_senders=True)
"""One sender, or all that the account has: an identity that lapsed refuses everybody alike."""
OWN_TRANSACTION: Final = Ruling(False, Scope.RECIPIENT, at_once=True)
NEVER_RECIPIENT: Final = Ruling(True, Scope.RECIPIENT)
UNSURE_RECIPIENT: Final = Ruling(True, Scope.RECIPIENT, is_sure=False)
NEVER_MESSAGE: Final = Ruling(True, Scope.MESSAGE)
NEVER_PROVIDER: Final = Ruling(True, Scope.PROVIDER)

MAIL_VERBS: Final = (Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.FINAL)
"""The commands whose refusal may be about this message, and not only about the connection."""
_RCPT: Final = (Verb.RCPT,)
_EVERY: Final = tuple(Verb)


@dataclass(frozen=True)
class Row:
    """A kind of refusal: what is left empty fits everything.

    `codes`: how the reply's code begins. `enhanced`: codes, or subjects such as "5.7.".
    """

    ruling: Ruling
    verbs: tuple[Verb, ...]
    codes: tuple[str, ...]
    source: str
    enhanced: tuple[str, ...] = ()
    words: str = ""

    def fits(self, verb: Verb, reply: SmtpReply) -> bool:
        """Whether the row speaks of this reply."""
        enhanced = reply.enhanced or ""
        return (
            verb in self.verbs
            and str(reply.code).startswith(self.codes)
            and (not self.enhanced or enhanced.startswith(self.enhanced_subjects)
                 or enhanced in self.enhanced)
            and (not self.words or re.search(self.words, reply.text, re.IGNORECASE) is not None)
        )  # fmt: skip

    @property
    def enhanced_subjects(self) -> tuple[str, ...]:
        """Those of `enhanced` that stand for all codes of their subject."""
        return tuple(each for each in self.enhanced if each.endswith("."))


_SURE: Final = ("5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10", "5.2.1")
NO_SUCH_USER: Final = (
    r"(user|recipient|mailbox|addressee|account|address)s? (is |was |marked as ){0,2}(unknown"
    r"|not found|unallocated|inactive|invalid|unavailable|disabled)|no longer valid"
    r"|(no such|unknown|invalid|no) (user|recipient|mailbox|local part|such address)"
    r"|(user|recipient|mailbox|account|address)\b.{0,60}does ?n.t (exist|have)"
    r"|not in recipient list|rejected: (inactive|invalid|unknown)"
)
"""Says of a mailbox that it is not there; proves it only together with a code that says so."""

ROWS: Final = (
    # One recipient's own.
    Row(GREYLISTED, MAIL_VERBS, ("4",), "RFC 6647 §5; Postgrey", words=r"gr[ae]y-?list"),
    Row(LATER_MESSAGE, _RCPT, ("421",), "Gmail's 421 4.7.0: another lane may be on that list, or"
        " have TLS",
        words=r"(list|tls required) for rcpt domain"),
    Row(LATER_DOMAIN, _RCPT, ("421",), "Gmail's 421 4.7.0 (support.google.com/a/answer/3726730)",
        words=r"(rcpt|recipient'?s?|this) domain"),
    Row(LATER_PROVIDER, _RCPT, ("421",), "RFC 5321 §3.8; RFC 3463 §3.4", enhanced=("4.3.",)),
    Row(LATER_PROVIDER, _RCPT, ("421",), "RFC 5321 §3.8",
        words=r"closing|shut(ting)? ?down|not available|unavailable|restart|maintenance"
              r"|time(d)? ?out|time limit|too many errors|busy"),
    Row(UNSURE_RECIPIENT, MAIL_VERBS, ("5",), "Exchange Online's NDR codes (learn.microsoft.com)",
        words=r"RESOLVER\.RST|restricted to (group|recipients)|recipient.{0,20}restrict"),
    Row(LATER_RECIPIENT, MAIL_VERBS, ("4", "5"),
        "Gmail's 4.2.1; Exchange Online's 5.2.121 and 432 4.3.2; Yandex's 4.2.1; Comcast's 4.1.1;"
        " Rackspace's 4.2.1",
        words=r"receiv(ing|ed) (mail|messages|e-?mails?) (too quickly|at a rate)"
              r"|(mailbox|user|recipient) (has )?received too (much|many)"
              r"|for this recipient\b|recipient (has exceeded|thread limit|rate limit)"
              r"|to this recipient per"
              r"|too many (recent messages|messages (on|in) the)"),
    Row(LATER_RECIPIENT, _RCPT, ("552",), "RFC 5321 §4.2.2", enhanced=("5.2.2",)),
    Row(LATER_RECIPIENT, _RCPT, ("552",), "RFC 5321 §4.2.2; Orange's 552 5.1.1",
        words=r"over ?quota|quota exceed|storage|mailbox (is )?full"),
    Row(NEVER_RECIPIENT, _RCPT, ("5",), "RFC 3463 §3.2-3; RFC 7505 §4.1", enhanced=_SURE),
    # The account's quotas and rates.
    Row(THROTTLED_DAY, _EVERY, ("4", "5"),
        "Gmail's 550 5.4.5; SES's 454; Exchange Online's SubmissionQuotaExceeded; SendGrid's 451",
        words=r"(daily|per day|24.?h(ou)?rs?).{0,60}(limit|quota|exceed|max)"
              r"|(limit|quota|max\w*|exceed\w*).{0,60}(daily|per day|24.?h(ou)?rs?|today)"
              r"|credits? (exceed|expir|limit)|(maximum|enough) credits|submissionquota|refusequota"
              r"|exceeded.{0,20}threshold"
              r"|insufficient (balance|funds|credit)|top.?up\b|over .{0,20}allowance"
              r"|(send(ing|er)?|messag(e|ing)|e?-?mail|monthly|plan|out(bound|going))"
              r" (limits?|quota).{0,20}(exceed|reach)|(exceeded|reached) (your|the)"
              r"(?!.{0,40}(size|recipient|storage|mailbox|length|hour)) ([\w']+ ){0,3}"
              r"(limit|quota|allowance)"),
    Row(THROTTLED_HOUR, _EVERY, ("4", "5"), "cPanel's max emails per hour (docs.cpanel.net)",
        words=r"(exceed|limit|max|too m).{0,80}\bhour|\bhour.{0,60}(exceed|limit|max)"),
    Row(THROTTLED, MAIL_VERBS, ("4", "5"), "Postfix's smtpd_client_recipient_rate_limit",
        words=r"too many recipients from"),
    Row(OWN_TRANSACTION, _RCPT, ("4", "5"),
        "RFC 5321 §4.5.3.1.10; Gmail's 452 4.5.3 and 451 4.3.0; go-smtp's 552 5.5.3",
        words=r"too many (rcpt|recipient|address)|(max|limit).{0,25}recipients|separate transaction"
              r"|recipients?.{0,20}(limit|per (message|transaction|session))|out of allow rcpt"
              r"|domains per transaction"),
    Row(OWN_TRANSACTION, _RCPT, ("4", "5"), "RFC 3463 §3.6", enhanced=("4.5.3", "5.5.3")),
    Row(THROTTLED, _EVERY, ("4", "5"),
        "SES; Mailtrap's 550 5.7.0; Rspamd's 451 4.7.1; MailChannels' [STF]; Outlook's 432 4.3.2",
        words=r"throttl|rate.?limit|(send(ing|er)|mail|message|submission) rate|per (second|minute)"
              r"|too (many|much) ((\w+ ){0,2}(e-?mails?|messages?|mails?|connections?)|times"
              r"|requests|sessions|connects|(failed )?(log ?in|auth\w*))"
              r"|too (fast|quickly|frequent)|\bhigh (\w+ ){0,3}rate"
              r"|concurren\w+ .{0,25}limit|slow down|frequency limit|(excessive|unexpected) volume"
              r"|unusual (rate|sending|amount|volume)|(session|connection|peak smtp relay) limit"
              r"|reached its limit"
              r"|per connection (reached|limit|exceed)|connections .{0,40}exceed"),
    # The account, our host, the sender.
    Row(NEVER_PROVIDER, MAIL_VERBS, ("5",),
        "Exim's and cPanel's 550 relay refusals; smtp2go; SES; Mail.ru; Brevo; Gmail's relay",
        words=r"auth\w* (is |failed or )?required|must (be )?authenticat|smtp auth"
              r"|check (for )?(new )?mail (before|first)|pop.?(3 )?before"
              r"|not (been )?authenticated|unauthenticated sender|without authentication"
              r"|not logged in|credentials"
              r"|(your|smtp) (account|mailbox|address) (\w+ ){0,3}(suspend|disabl|block|lock"
              r"|expir|deactivat|restrict)|account ha[sd] been (suspended|restricted)"
              r"|account .{0,15}not (yet )?activ|outgoing (e?-?mail )?(is |was )?(blocked|disabled)"
              r"|unauthori[sz]ed ip|\bip .{0,40}not (allowed|authori[sz]ed|registered)"
              r"|licen[cs]e expired|unpaid|billing|\b(helo|ehlo)"
              r"|\d\]? is not (allowed|authori[sz]ed|permitted)|\bapi key\b"
              r"|sending (\w+ ){0,4}(paused|disabled|suspended|blocked)|spam abuse detected"),
    Row(NEVER_PROVIDER, (Verb.MAIL, Verb.DATA, Verb.FINAL), ("5",), "smtp2go's 552; GMX; hosters'",
        words=r"\baccount\b.{0,25}(suspend|block|\block|restrict|deactivat|terminat|closed"
              r"|limited|on hold|under review)"),
    Row(LATER_PROVIDER, MAIL_VERBS, ("4",), "Postfix's reject_unknown_helo_hostname",
        words=r"\b(helo|ehlo)"),
    # The message's form and signatures, and its sender.
    Row(NEVER_MESSAGE, MAIL_VERBS, ("5",), "RFC 5322 §3.6; Fastmail's 551; SparkPost's 550 5.6.0",
        words=r"multiple (addresses|from)|missing .{0,30}(header|from)|\brfc.?\d{3,4}|rfc compliant"
              r"|malformed|pars(e|ing) error|configuration set"),
    Row(NEVER_MESSAGE, MAIL_VERBS, ("5",), "RFC 7372; Gmail's 5.7.26; Outlook's 5.7.515",
        words=r"\b(dmarc|dkim|spf)\b|sender policy framework|authentication level"
              r"|sender is unauthenticated"),
    Row(NOT_THIS_SENDER, MAIL_VERBS, ("5",), "Exchange Online's 5.1.8; Zoho's 554 5.1.8; JetEmail",
        words=r"bad outbound sender|sender (address |account )?(is |has been )?"
              r"(blocked(?! using)|suspend|disabled|locked|restrict)"),
    Row(NEVER_MESSAGE, MAIL_VERBS, ("5",), "RFC 3463 §3.2", enhanced=("5.1.7", "5.1.8")),
    Row(LATER_MESSAGE, MAIL_VERBS, ("4",), "RFC 3463 §3.2", enhanced=("4.1.7", "4.1.8")),
    Row(NEVER_MESSAGE, MAIL_VERBS, ("5",), "Spamhaus DBL, URIBL; QQ Mail",
        words=r"\bdbl\b|[su]r?ibl|(sender|mailfrom|sending) (address|domain).{0,30}(block|list)"
              r"|(black|block).{0,10}recipient|rejected by recipient"
              r"|(black|block)listed (url|link|domain)|(url|link)\b.{0,30}(black|block) ?list"),
    Row(NOT_THIS_SENDER, MAIL_VERBS, ("5",),
        "Postfix's reject_sender_login_mismatch; SES; SendGrid; Exchange Online's SendAsDenied;"
        " Exim's sender verification; qmail's badmailfrom; Postal's 530; SparkPost's 550 5.7.1",
        words=r"sender (address )?(is )?(rejected|denied|invalid|not (verified|owned|allowed))"
              r"|sender\b.{0,40}\bnot (registered|permitted|authori[sz]ed|known)"
              r"|not owned by|\bfrom\W{0,2}(address|header|domain)\b|disallowed as\b"
              r"|verified sender|(address|domain|identity) is not verified|sendasdenied"
              r"|permissions? to send as"
              r"|must be (the )?same as|badmailfrom"
              r"|not (allowed|authori[sz]ed|permitted) to send(?! (\w+ )?to\b)"
              r"|(invalid|incorrect|envelope) sender|sender (domain )?(verif|does not)"
              r"|header from|sender name|(permitted|approved) senders|(sending|unregistered) domain"
              r"|denies the sender|not one of your addresses|not authori[sz]ed to perform"),
    Row(NEVER_PROVIDER, MAIL_VERBS, ("5",),
        "Postfix's and Exim's relay refusals; qmail's rcpthosts; NetEase's 553",
        words=r"relay(ing)? (access )?(denied|not (permitted|allowed)|prohibited|disallowed)"
              r"|(unable|not permitted|not allowed) to relay|as a relay|rcpthosts|relay check"
              r"|den(y|ies|ied) relay"),
    Row(LATER_MESSAGE, MAIL_VERBS, ("4", "5"), "Postfix's reject_rbl_client; Spamhaus; Outlook",
        words=r"blocked using|client host|bl(ac|o)c?k ?list|banned send|listed (at|by|in|on)\b"
              r"|spamhaus|dnsbl|\brbl\b|your (reverse )?hostname|reverse dns|\bptr\b"
              r"|poor reputation|connections? (will )?not (be )?accepted|adresse ip|black ip"
              r"|ip check|\b(this|your|client|source) ip\b"
              r"|\bip (address )?(is )?(reject|block|bann|deni)"),
    Row(LATER_MESSAGE, MAIL_VERBS, ("5",), "GMX's 550: half an hour later it takes the same mail"
        " (github.com/nodemailer/nodemailer/issues/1555)",
        words=r"again (later|in \d)|retry (later|after)|\btemporar"),
    Row(NEVER_MESSAGE, MAIL_VERBS, ("5",), "RFC 1870 §6; Exim",
        words=r"(message|mail|size).{0,30}(too (big|large|long)|exceed)"),
    # What the command and the enhanced code leave.
    Row(NEVER_PROVIDER, MAIL_VERBS, ("530", "535"), "RFC 4954 §6; RFC 3207 §4"),
    Row(NOT_THIS_SENDER, _RCPT, ("5",), "RFC 5321 §3.3: many servers look at the sender only now",
        words=r"^(?!.*\b(recipient|mailbox|group|list)).*\b(sender|mail from|return.path)\b"),
    Row(UNSURE_RECIPIENT, _RCPT, ("5",), "Outlook's 550 5.5.0; Yandex's 550 5.7.1; Trend Micro",
        words=NO_SUCH_USER),
    Row(NEVER_MESSAGE, MAIL_VERBS, ("5",), "RFC 3463 §3.3-4", enhanced=("5.3.4", "5.2.3", "5.6.7")),
    Row(NEVER_MESSAGE, (Verb.MAIL,), ("5",), "RFC 3463 §3.2", enhanced=("5.1.",)),
    Row(NEVER_PROVIDER, (Verb.MAIL,), ("5",), "RFC 3463 §3.8", enhanced=("5.7.",)),
    Row(NEVER_RECIPIENT, _RCPT, ("5",), "RFC 3463 §3.3", enhanced=("5.2.2",)),
    Row(NEVER_MESSAGE, _RCPT, ("5",), "Exim's 550; Forpsi's 550 5.1.0: policy, never a mailbox",
        words=r"\bpolicy\b|prohibit|\bspam\b"),
    Row(UNSURE_RECIPIENT, _RCPT, ("5",), "RFC 3463 §3.2-5", enhanced=("5.1.", "5.2.", "5.4.")),
    Row(LATER_PROVIDER, _RCPT, ("5",), "RFC 3463 §3.4, §3.6", enhanced=("5.3.", "5.5.")),
    Row(NEVER_MESSAGE, _RCPT, ("5",), "RFC 3463 §3.8: policy, never a mailbox", enhanced=("5.7.",)),
    Row(LATER_MESSAGE, _RCPT, ("450", "451", "452"), "IONOS' 450; Barracuda's 450; Mimecast's 451",
        words=r"\bpolicy\b|\babuse\b|open relay"),
    Row(LATER_PROVIDER, _RCPT, ("450", "451", "452"), "Exchange's shadow redundancy",
        words=r"failed to be replicated"),
    Row(LATER_DOMAIN, _RCPT, ("450", "451", "452"), "RFC 3463 §3.5", enhanced=("4.4.",)),
    Row(LATER_PROVIDER, _RCPT, ("450", "451", "452"), "RFC 3463 §3.4", enhanced=("4.3.",)),
    Row(LATER_MESSAGE, _RCPT, ("450", "451", "452"),
        "Postfix's access policy: 4.7.1 is greylisting only where the text says so",
        enhanced=("4.7.",)),
    Row(LATER_MESSAGE, _RCPT, ("450", "451", "452"),
        "Exim's 451; Yahoo's 451; NetEase's 450: the server's own trouble, not the mailbox's",
        words=r"(local|internal|system|database|server|temporary) (\w+ )?(problem|error|failure)"
              r"|\bresources?\b|out of memory|another server"),
    Row(LATER_MESSAGE, (Verb.FINAL,), ("450", "451", "452"), "RFC 3463 §3.7-8: a filter that cannot"
        " decide yet", enhanced=("4.6.", "4.7.")),
)  # fmt: skip

BY_CODE: Final[dict[Verb, dict[Ruling, tuple[int, ...]]]] = {
    # A load balancer's bad node greets with 554 as a blocked address does: the breaker's affair.
    Verb.GREETING: {LATER_PROVIDER: (421, 450, 451, 454, 500, 520, 521, 550, 554)},
    Verb.EHLO: {LATER_PROVIDER: (421, 450, 451, 454, 500, 501, 502, 503, 504, 521, 550, 554)},
    Verb.STARTTLS: {LATER_PROVIDER: (421, 451, 454, 500, 501, 502, 503, 554)},
    Verb.AUTH: {
        # 432 asks for a change of password (RFC 4954 §6), or for fewer connections (Outlook).
        LATER_PROVIDER: (421, 432, 451, 454, 503),
        NEVER_PROVIDER: (500, 501, 502, 504, 525, 530, 534, 535, 538, 550, 553, 554),
    },
    Verb.MAIL: {
        # A 550 without a reason says nothing of the account: the breaker counts, nobody is final.
        LATER_PROVIDER: (421, 450, 451, 452, 454, 455, 500, 502, 503, 504, 550, 551, 554),
        NEVER_MESSAGE: (501, 552, 553, 555),
        NEVER_PROVIDER: (530, 535),
    },
    Verb.RCPT: {
        # The relay hangs up over one recipient: about the others, and the relay, it says nothing.
        LATER_DOMAIN: (421,),
        # 552 was once "too many recipients", and is to be read as 452 (RFC 5321 §4.5.3.1.10).
        LATER_RECIPIENT: (432, 450, 451, 452, 552),
        LATER_PROVIDER: (454, 455, 500, 502, 503, 504),
        UNSURE_RECIPIENT: (501, 510, 511, 521, 540, 541, 542, 550, 551, 553, 556),
        # Policy without a reason: never cause to suppress a mailbox.
        NEVER_MESSAGE: (554, 555),
        NEVER_PROVIDER: (530, 535),
    },
    Verb.DATA: {
        LATER_PROVIDER: (421, 450, 451, 452, 454, 500, 501, 502, 503, 504),
        NEVER_MESSAGE: (550, 552, 554),
        NEVER_PROVIDER: (530, 535),
    },
    Verb.FINAL: {
        LATER_PROVIDER: (421, 432, 450, 451, 452, 454),
        NEVER_MESSAGE: (500, 501, 503, 541, 550, 551, 552, 553, 554, 555, 571),
        NEVER_PROVIDER: (530, 535),
    },
}
"""What a bare code means, where no row knows more."""

_RULINGS: Final = {
    (verb, code): ruling
    for verb, rulings in BY_CODE.items()
    for ruling, codes in rulings.items()
    for code in codes
}


def find_ruling(verb: Verb, reply: SmtpReply) -> Ruling | None:
    """Return what the table says of a refusal, or None when no row has it."""
    for row in ROWS:
        if row.fits(verb, reply):
            return row.ruling
    return _RULINGS.get((verb, reply.code))
