"""Logging: one line an event, to standard error. Never a message text, a secret, or a whole address."""

from __future__ import annotations

import logging
import re
import sys

from webapp.contracts.texts import mask_address
from webapp.settings import Settings

_NUMBER = re.compile(r"\+\d{6,15}\b")


class MaskNumbers(logging.Filter):
    """Hides phone numbers in whatever is logged, by whomever: a library's line is masked as well as ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "+" in text and _NUMBER.search(text):
            record.msg = _NUMBER.sub(lambda found: mask_address(found.group()), text)
            record.args = ()
        return True


def configure(settings: Settings) -> None:
    """Set up the root logger once per process; a second application in it changes only the level."""
    root = logging.getLogger()
    root.setLevel(settings.log_level)
    if any(isinstance(f, MaskNumbers) for handler in root.handlers for f in handler.filters):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(MaskNumbers())
    root.addHandler(handler)
    for chatty in ("httpx", "urllib3", "rq", "alembic.runtime.migration", "flask-limiter"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
