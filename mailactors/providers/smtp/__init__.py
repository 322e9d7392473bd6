"""Our own SMTP client: a sans-IO protocol, a Trio connection, and the provider."""

from mailactors.providers.smtp.provider import SmtpProvider
from mailactors.providers.smtp.settings import SmtpSettings

__all__ = ["SmtpProvider", "SmtpSettings"]
