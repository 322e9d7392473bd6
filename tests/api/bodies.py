"""Messages that are in order, as clients send them."""

from __future__ import annotations

from typing import Any

SHORT = {"id": "order-1", "to": "ann@example.org", "subject": "Hello", "body": "Hello, Ann"}
FULL: dict[str, Any] = {
    "from": "Shop <shop@example.com>",
    "to": ["Ann <ann@example.org>", {"address": "bob@example.org", "name": "Bob"}],
    "cc": "carol@example.org",
    "bcc": ["dave@example.org"],
    "reply_to": "help@example.com",
    "subject": "Your receipt",
    "text": "Thank you",
    "html": "<p>Thank you</p>",
    "headers": {"X-Order": "17"},
    "attachments": [
        {"filename": "a.txt", "content": "YWJj", "content_type": "text/plain", "content_id": ""}
    ],
    "stream": "bulk",
    "expires_in_s": 30,
    "tags": ["receipt"],
    "metadata": {"order": "17"},
}
RAW = b"From: shop@example.com\r\nSubject: raw\r\n\r\nHello\r\n"
