"""The settings about vendors and kept answers: a part of `Settings`, in a file of its own for its length."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class VendorSettings(BaseSettings):
    """How vendors are treated, and for how long their answers are kept."""

    provider_requests_per_minute: int = Field(
        60,
        alias="SWITCHHOOK_PROVIDER_REQUESTS_PER_MINUTE",
        ge=0,
        le=1_000_000,
        description="Calls a minute to each vendor that bills, over all processes, unless its own settings say otherwise; "
        "0: no limit.",
    )
    provider_tokens_per_minute: int = Field(
        0,
        alias="SWITCHHOOK_PROVIDER_TOKENS_PER_MINUTE",
        ge=0,
        le=1_000_000_000,
        description="Tokens a minute at each vendor that bills, in the same way; 0: no limit.",
    )
    provider_concurrent: int = Field(
        0,
        alias="SWITCHHOOK_PROVIDER_CONCURRENT",
        ge=0,
        le=100_000,
        description="Calls to each vendor that bills at the same time, in the same way; 0: no limit.",
    )
    retries: int = Field(
        2,
        alias="SWITCHHOOK_RETRIES",
        ge=0,
        le=10,
        description="How often a failed call is tried again, with growing pauses, once every model of the route has failed.",
    )
    retry_wait_s: float = Field(
        20.0,
        alias="SWITCHHOOK_RETRY_WAIT_S",
        ge=0,
        le=600,
        description="Longest pause in seconds before a call is tried again; a vendor that asks for more is not asked again.",
    )
    fallback_on_refusal: bool = Field(
        False,
        alias="SWITCHHOOK_FALLBACK_ON_REFUSAL",
        description="Whether the next model is asked when a vendor's content policy refuses a request.",
    )
    breaker_failures: int = Field(
        5,
        alias="SWITCHHOOK_BREAKER_FAILURES",
        ge=1,
        le=1000,
        description="Failures in a row after which a model is left alone for a while.",
    )
    breaker_open_s: float = Field(
        60.0,
        alias="SWITCHHOOK_BREAKER_OPEN_S",
        ge=0.1,
        le=3600,
        description="Seconds for which it is left alone, before one call tries it again.",
    )

    # -- kept answers ----------------------------------------------------------------------------------------------
    cache_scope: Literal["person", "organization", "off"] = Field(
        "person",
        alias="SWITCHHOOK_CACHE_SCOPE",
        description="Who gets a kept answer to the very same question, free of charge: the same person, anyone of the same "
        "organization, or nobody.",
    )
    cache_chat_s: int = Field(
        300, alias="SWITCHHOOK_CACHE_CHAT_S", ge=0, le=2_592_000, description="Seconds that answers of a chat are kept."
    )
    cache_content_s: int = Field(
        3600,
        alias="SWITCHHOOK_CACHE_CONTENT_S",
        ge=0,
        le=2_592_000,
        description="Seconds that generated content is kept.",
    )
    cache_sentiment_s: int = Field(
        86_400,
        alias="SWITCHHOOK_CACHE_SENTIMENT_S",
        ge=0,
        le=2_592_000,
        description="Seconds that analyses of sentiment are kept.",
    )
    cache_warm_file: Path | None = Field(
        None,
        alias="SWITCHHOOK_CACHE_WARM_FILE",
        description="Text file of questions, one a line, whose answers are kept ready for everybody; needs the scope "
        "organization.",
    )
