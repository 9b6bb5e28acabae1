"""What a look at the installation found: values that are safe to show to anybody who helps."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import SecretStr

from webapp.contracts.providers import Variable
from webapp.settings import Settings

_SHORTEST_SECRET = 6


class Level(StrEnum):
    """How a finding weighs. Only a fault means that something is broken; what is not set up is nobody's fault."""

    OK = "ok"
    OFF = "off"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `cure` says what to do; it is '' only where nothing needs to be done."""

    area: str
    name: str
    level: Level
    detail: str
    cure: str = ""


def blotted(found: list[Finding], settings: Settings, variables: Iterable[Variable], more: Iterable[str] = ()) -> list[Finding]:
    """The findings without any secret, whoever put it there: a vendor may repeat a key in its error message. `more` are
    secrets that are neither settings nor in the environment."""
    secrets = {v for v in vars(settings).values() if isinstance(v, SecretStr)}
    words = {secret.get_secret_value() for secret in secrets}
    for url in (settings.database_url, settings.redis_url):
        if "@" in url:
            words.add(urlsplit(url).password or "")
    given = settings.for_plugins()
    words |= {given.get(v.name, "").strip() for v in variables if v.secret}
    words.update(more)
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True) if len(word) >= _SHORTEST_SECRET)
    if not pattern:
        return found
    return [
        replace(finding, detail=re.sub(pattern, "***", finding.detail), cure=re.sub(pattern, "***", finding.cure))
        for finding in found
    ]
