"""The settings about limits, jobs and batches: a part of `Settings`, in a file of its own for its length."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator

from webapp.settings_api import ApiSettings


class WorkSettings(ApiSettings):
    """What may be spent, who is told of it, and what becomes of work that fails."""

    credit_usd: float = Field(
        0.05,
        alias="SWITCHHOOK_CREDIT_USD",
        gt=0,
        le=1_000,
        description="Dollars that one credit stands for.",
    )
    allocation_credits: int = Field(
        50,
        alias="SWITCHHOOK_ALLOCATION_CREDITS",
        ge=10,
        le=500,
        description="Credits that one request may cost at most, unless it says otherwise itself (10 to 500).",
    )
    unknown_price: Literal["ceiling", "refuse"] = Field(
        "ceiling",
        alias="SWITCHHOOK_UNKNOWN_PRICE",
        description="What a model costs whose price nobody knows: ceiling (the prices SWITCHHOOK_CEILING_*), or refuse (it is "
        "not used).",
    )
    sms_part_usd: float = Field(
        0.0,
        alias="SWITCHHOOK_SMS_PART_USD",
        ge=0,
        le=100,
        description="Dollars that one part of a text message costs where the vendor does not tell it; 0: not known.",
    )
    ceiling_sms_usd: float = Field(
        0.02,
        alias="SWITCHHOOK_CEILING_SMS_USD",
        ge=0,
        le=100,
        description="Dollars that count for one part of a text message whose price is not known.",
    )
    warn_percents: str = Field(
        "80,100",
        alias="SWITCHHOOK_WARN_PERCENTS",
        description="At how many percent of a limit people are told, once in its window each; empty: never.",
    )
    warn_managers: Literal["all", "organization", "none"] = Field(
        "all",
        alias="SWITCHHOOK_WARN_MANAGERS",
        description="Of which limits an organization's managers are told by e-mail: all, only those of the organization, none.",
    )
    job_retries: int = Field(
        3,
        alias="SWITCHHOOK_JOB_RETRIES",
        ge=0,
        le=20,
        description="How often a request is put back to the queue after a failure that may pass, before it is set aside.",
    )
    job_retry_waits_s: str = Field(
        "10,60,300",
        alias="SWITCHHOOK_JOB_RETRY_WAITS_S",
        description="Seconds to wait before each of these retries, separated by commas; the last one goes on.",
    )
    poison_after: int = Field(
        2,
        alias="SWITCHHOOK_POISON_AFTER",
        ge=1,
        le=20,
        description="How many times a request may kill the process that executes it before it is set aside.",
    )
    queue_max_h: float = Field(
        24.0,
        alias="SWITCHHOOK_QUEUE_MAX_H",
        gt=0,
        le=24 * 365,
        description="Hours after which a request that still waits in the queue is given up; those of batches wait on.",
    )
    operation_timeouts_s: str = Field(
        "",
        alias="SWITCHHOOK_OPERATION_TIMEOUTS_S",
        description="Seconds that a request of one operation may take, over the general settings, such as "
        "sentiment.analyze=20,content.generate=60.",
    )
    retention_days: int = Field(
        0,
        alias="SWITCHHOOK_RETENTION_DAYS",
        ge=0,
        le=36_500,
        description="Days after which the content of ended requests is erased, their figures kept; 0: it is kept for ever.",
    )
    batch_rows_max: int = Field(
        10_000, alias="SWITCHHOOK_BATCH_ROWS_MAX", ge=1, le=1_000_000, description="Most rows of one batch."
    )
    batch_in_flight: int = Field(
        20,
        alias="SWITCHHOOK_BATCH_IN_FLIGHT",
        ge=1,
        le=1_000,
        description="How many requests of one batch wait or run at the same time.",
    )
    invitation_days: int = Field(
        7, alias="SWITCHHOOK_INVITATION_DAYS", ge=1, le=365, description="Days that an invitation is open."
    )

    @field_validator("warn_percents")
    @classmethod
    def _percents(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 100 for part in parts):
            raise ValueError("must be whole numbers from 1 to 100, separated by commas")
        return ",".join(sorted(set(parts), key=int))

    @field_validator("job_retry_waits_s")
    @classmethod
    def _waits(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) <= 86_400 for part in parts):
            raise ValueError("must be whole seconds from 0 to 86400, separated by commas")
        return ",".join(parts)

    @field_validator("operation_timeouts_s")
    @classmethod
    def _timeouts(cls, value: str) -> str:
        _by_operation(value)
        return value

    @property
    def warned_percents(self) -> tuple[int, ...]:
        """At how many percent of a limit people are told, lowest first."""
        return _percents(self.warn_percents)

    def retry_wait_after_s(self, retries: int) -> float:
        """Seconds to wait before a request is tried again that was tried again `retries` times already."""
        waits = self.job_retry_waits_s.split(",")
        return float(waits[min(retries, len(waits) - 1)])

    def timeout_of(self, operation: str) -> float | None:
        """Seconds that a request of this operation may take, None for the general setting."""
        return _by_operation(self.operation_timeouts_s).get(operation)

    @property
    def credit_microusd(self) -> float:
        """Micro-dollars that one credit stands for."""
        return self.credit_usd * 1_000_000


@lru_cache(maxsize=16)
def _percents(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


@lru_cache(maxsize=16)
def _by_operation(text: str) -> Mapping[str, float]:
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        operation, _, seconds = part.partition("=")
        try:
            found[operation.strip()] = float(seconds)
        except ValueError:
            found[operation.strip()] = 0.0
        if not operation.strip() or not 1 <= found[operation.strip()] <= 3600:
            raise ValueError("must be operation=seconds (1 to 3600), several separated by commas")
    return found
