"""What stands in for LiteLLM's database, loaded by its proxy: known keys with limits, and a ledger row for each answer.

LiteLLM's own keys, budgets and spend need an engine that Prisma downloads while it is set up. This does less (no key is looked
up in SQL, no sums a day are kept), so what is measured with it flatters LiteLLM. Its limiter is its own, in Redis.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import threading
from pathlib import Path
from typing import Any

import psycopg
from fastapi import Request
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

_PERSONS: dict[str, str] = json.loads(Path(os.environ["FLOOR_TOKENS"]).read_text())
_ROWS: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
_INSERT = (
    "INSERT INTO ledger (person, model, input_tokens, output_tokens, cost_microusd, created_at) "
    "VALUES (%s, %s, %s, %s, %s, extract(epoch FROM now()))"
)


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Who this key belongs to, and what they may do in a minute."""
    digest = hashlib.sha256(api_key.removeprefix("Bearer ").encode()).hexdigest()
    return UserAPIKeyAuth(api_key=digest, user_id=_PERSONS[digest], rpm_limit=10**9, tpm_limit=10**12)


def _write() -> None:
    with psycopg.connect(os.environ["FLOOR_DATABASE_URL"], autocommit=True) as connection:
        while True:
            connection.execute(_INSERT, _ROWS.get())


class Ledger(CustomLogger):  # type: ignore[misc]
    """One committed row for each answer, from a thread of its own: the event loop does not wait for it."""

    async def async_log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        usage = response_obj.usage
        person = kwargs["litellm_params"]["metadata"].get("user_api_key_user_id") or ""
        cost = round(1_000_000 * (kwargs.get("response_cost") or 0))
        _ROWS.put((person, kwargs["model"], usage.prompt_tokens, usage.completion_tokens, cost))


threading.Thread(target=_write, daemon=True).start()
ledger = Ledger()
