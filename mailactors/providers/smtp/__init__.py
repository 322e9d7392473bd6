"""Our own SMTP client: sans-io below, Trio above, one provider on top."""

from mailactors.providers.smtp.provider import SmtpProvider
from mailactors.providers.smtp.settings import SmtpSettings

__all__ = ["SmtpProvider", "SmtpSettings"]
