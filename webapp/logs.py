"""Logging: one line an event, to standard error. Never a message text, a secret, or a whole address.

What is logged while a call to an API is answered carries the call's id, the one that its caller is told as `X-Request-Id`.
"""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar

from webapp.contracts.texts import hide_tokens, mask_address
from webapp.settings import Settings

call_id: ContextVar[str] = ContextVar("call_id", default="")
"""The id of the call that this thread answers, '' for none."""
_NUMBER = re.compile(r"\+\d{6,15}\b")


class MaskingFormatter(logging.Formatter):
    """Hides phone numbers and API tokens in whatever is logged, by whomever, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        call = call_id.get()
        record.call = f" [{call}]" if call else ""
        text = hide_tokens(super().format(record))
        return _NUMBER.sub(lambda found: mask_address(found.group()), text) if "+" in text else text


def configure(settings: Settings) -> None:
    """Set up the root logger once per process; a second application in it changes only the level."""
    root = logging.getLogger()
    root.setLevel(settings.log_level)
    if any(isinstance(handler.formatter, MaskingFormatter) for handler in root.handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(name)s:%(call)s %(message)s"))
    root.addHandler(handler)
    for chatty in ("httpx", "urllib3", "rq", "alembic.runtime", "flask-limiter"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
