"""Logging: one line an event, to standard error. Never a message text, a secret, or a whole address."""

from __future__ import annotations

import logging
import re
import sys

from webapp.contracts.texts import mask_address
from webapp.settings import Settings

_NUMBER = re.compile(r"\+\d{6,15}\b")


class MaskingFormatter(logging.Formatter):
    """Hides phone numbers in whatever is logged, by whomever, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return _NUMBER.sub(lambda found: mask_address(found.group()), text) if "+" in text else text


def configure(settings: Settings) -> None:
    """Set up the root logger once per process; a second application in it changes only the level."""
    root = logging.getLogger()
    root.setLevel(settings.log_level)
    if any(isinstance(handler.formatter, MaskingFormatter) for handler in root.handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    for chatty in ("httpx", "urllib3", "rq", "alembic.runtime.migration", "flask-limiter"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
