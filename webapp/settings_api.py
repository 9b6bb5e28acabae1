"""The settings about the APIs and outgoing webhooks: a part of `Settings`, in a file of its own for its length."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from webapp.settings_vendors import VendorSettings


class ApiSettings(VendorSettings):
    """How programs are treated, and what they are told."""

    throttle_anonymous_per_h: int = Field(
        100,
        alias="SWITCHHOOK_THROTTLE_ANONYMOUS_PER_H",
        ge=0,
        le=1_000_000_000,
        description="Calls an hour to /api and /v1 from one address without a valid sign-in or token; 0: no limit.",
    )
    throttle_signed_in_per_h: int = Field(
        1000,
        alias="SWITCHHOOK_THROTTLE_SIGNED_IN_PER_H",
        ge=0,
        le=1_000_000_000,
        description="Calls an hour to /api by one person, over all their tokens and sessions; 0: no limit.",
    )
    throttle_v1_per_min: int = Field(
        0,
        alias="SWITCHHOOK_THROTTLE_V1_PER_MIN",
        ge=0,
        le=1_000_000_000,
        description="Calls a minute to /v1 by one token; 0: only the limits on requests, tokens and cost count there.",
    )
    cors_origins: str = Field(
        "",
        alias="SWITCHHOOK_CORS_ORIGINS",
        description="Web sites whose pages may call /api and /v1 with a token, such as https://app.example.com, separated by "
        "commas; * for all. Sessions are never shared with them. Empty: none.",
    )
    api_body_max_mb: int = Field(
        25,
        alias="SWITCHHOOK_API_BODY_MAX_MB",
        ge=1,
        le=1_000,
        description="Megabytes that the body of a call to /v1 or /api may have at most; pictures travel in it.",
    )
    api_answer_h: int = Field(
        24,
        alias="SWITCHHOOK_API_ANSWER_H",
        ge=1,
        le=24 * 30,
        description="Hours for which the answer to a call with an Idempotency-Key is kept for its repetitions.",
    )
    webhook_timeout_s: float = Field(
        15.0,
        alias="SWITCHHOOK_WEBHOOK_TIMEOUT_S",
        gt=0,
        le=60,
        description="Seconds that a receiver of outgoing webhooks has to answer.",
    )
    webhook_waits_s: str = Field(
        "5,60,300,1800,7200,21600,43200",
        alias="SWITCHHOOK_WEBHOOK_WAITS_S",
        description="Seconds to wait before each further try of an outgoing webhook, separated by commas; after the last one "
        "it has failed.",
    )
    webhook_disable_after_h: float = Field(
        48.0,
        alias="SWITCHHOOK_WEBHOOK_DISABLE_AFTER_H",
        gt=0,
        le=24 * 365,
        description="Hours of nothing but failures after which an endpoint of outgoing webhooks is switched off.",
    )
    webhook_endpoints_max: int = Field(
        20,
        alias="SWITCHHOOK_WEBHOOK_ENDPOINTS_MAX",
        ge=1,
        le=1_000,
        description="Most endpoints of outgoing webhooks of one organization.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: str) -> str:
        parts = [part.strip().rstrip("/") for part in value.split(",") if part.strip()]
        for part in parts:
            found = urlsplit(part)
            if part != "*" and not (
                found.scheme in ("http", "https") and found.netloc and f"{found.scheme}://{found.netloc}" == part
            ):
                raise ValueError("must be origins such as https://app.example.com, separated by commas, or *")
        return ",".join(parts)

    @field_validator("webhook_waits_s")
    @classmethod
    def _webhook_waits(cls, value: str) -> str:
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdigit() and int(part) <= 86_400 for part in parts) or len(parts) > 50:
            raise ValueError("must be at most 50 whole numbers of seconds from 0 to 86400, separated by commas")
        return ",".join(parts)

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Origins whose pages may call the APIs; `*` among them means all."""
        return frozenset(part for part in self.cors_origins.split(",") if part)

    def webhook_wait_after_s(self, attempts: int) -> int | None:
        """Seconds to wait after that many failed tries, None to give up."""
        waits = self.webhook_waits_s.split(",")
        return int(waits[attempts - 1]) if attempts <= len(waits) else None
