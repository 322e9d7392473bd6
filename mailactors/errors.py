"""The base of every exception that mailactors raises on purpose.

Exceptions are for us: a caller's mistake, a full disk, a crashed actor. What a provider answers
is never an exception but a value (`model.outcome`). Each room defines its own subclasses.
"""


class MailactorsError(Exception):
    """Anything that mailactors raises on purpose; its text is fit to be shown to an operator."""
