"""What goes into and comes out of `/api/providers`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, Strict, StringConstraints

from webapp.api.base import ApiModel, Flag, Text, Whole

Dollars = Annotated[str, Strict(), StringConstraints(pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?$")]


class ProviderPrice(ApiModel):
    """What a model costs."""

    input_microusd: int = Field(description="Micro-dollars for a million input tokens, of a call with 100,000.")
    output_microusd: int = Field(description="Micro-dollars for a million output tokens.")
    picture_microusd: int | None = Field(description="Micro-dollars for a picture; null for models that make none.")
    known: bool = Field(description="False where nobody knows the price: the operator's ceiling counts.")
    source: str = Field(description="Whose price it is.")
    date: str = Field(description="The day from which it is; empty where that is not known.")


class ProviderModel(ApiModel):
    """A model. null is what nobody knows."""

    name: str = Field(description="provider/model, as a request names it.")
    id: str
    label: str
    kind: Literal["text", "images"]
    default: bool
    context_tokens: int | None
    output_tokens: int | None
    capabilities: list[str] | None = Field(description="vision, json, tools.")
    note: str
    price: ProviderPrice


class ProviderItem(ApiModel):
    """A provider as the people of the organization have it."""

    name: str
    label: str
    kinds: list[Literal["text", "images"]]
    enabled: bool = Field(description="Neither the installation nor the organization has switched it off.")
    ready: bool = Field(description="It can be used now.")
    demo: bool = Field(description="Its answers do not come from a model.")
    own_key: bool = Field(description="The organization pays it by an account of its own.")
    default_model: str
    models: list[ProviderModel] = Field(
        description="The default one, and those that settings, prices and routing rules name. The vendor may have others."
    )


class ProviderList(ApiModel):
    """Providers in the order in which they are preferred."""

    items: list[ProviderItem]


class ProviderVariable(ApiModel):
    """A setting of a provider."""

    name: str
    meaning: str
    kind: str
    choices: list[str]
    secret: bool
    source: str = Field(description="environment, set here, default, or nothing.")
    shown: str = Field(description="The value; of a secret its last characters only.")


class ProviderCircuit(ApiModel):
    """The breaker of a model that has failed lately."""

    target: str
    state: str = Field(description="closed, open or probing.")
    failures: int
    opened_at: datetime | None
    until: datetime | None


class ProviderHealth(ApiModel):
    """How a provider did in the last hour, and what is known of it now."""

    calls: int
    failures: int
    error_rate: float = Field(description="0 to 1; 0 where there were no calls.")
    p50_ms: int | None = Field(description="Of calls that were answered.")
    p95_ms: int | None
    first_piece_p50_ms: int | None
    last_error: str
    last_error_at: datetime | None
    in_flight: int
    requests_last_minute: int = Field(description="0 where its pace has no such limit: then nobody counts.")
    tokens_last_minute: int
    paused_until: datetime | None
    pause_reason: str
    circuits: list[ProviderCircuit] = Field(description="Those with failures.")
    balance: str = Field(description="What is left on the account, in the vendor's words; empty where it does not tell.")
    seen: str = Field(description="What the last look at it showed.")
    seen_ok: bool | None = Field(description="null where nobody looked lately.")


class ProviderPace(ApiModel):
    """How fast it may be called: the limits that count; 0 means none."""

    requests_per_minute: int
    tokens_per_minute: int
    concurrent: int


class ProviderPriceSet(ApiModel):
    """An operator's own price: dollars, as texts. What is not set is as it would be without."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"input_usd": "0.15", "output_usd": "0.60"}]})

    input_usd: Dollars | None = Field(None, description="For a million input tokens.")
    output_usd: Dollars | None = Field(None, description="For a million output tokens.")
    cached_usd: Dollars | None = Field(None, description="For a million cached input tokens.")
    cache_write_usd: Dollars | None = Field(None, description="For a million tokens written to the vendor's cache.")
    picture_usd: Dollars | None = Field(None, description="For a picture.")
    credit_usd: Dollars | None = Field(None, description="For a credit of the vendor's.")


class ProviderPriceShown(ApiModel):
    """An operator's own price as it is kept: dollars, as texts."""

    input_usd: str | None = None
    output_usd: str | None = None
    cached_usd: str | None = None
    cache_write_usd: str | None = None
    picture_usd: str | None = None
    credit_usd: str | None = None
    as_of: str | None = Field(None, description="The day on which it was set.")


class ProviderSettings(ApiModel):
    """A provider with all that is set for it. No secret is shown."""

    name: str
    label: str
    kinds: list[Literal["text", "images"]]
    enabled: bool
    ready: bool
    missing: str = Field(description="What keeps it from being used; empty if nothing does.")
    default_model: str = Field(description="The one that counts.")
    image_model: str = Field(description="The one that draws, where the vendor has both kinds.")
    base_url: str
    variables: list[ProviderVariable]
    limits: dict[str, int] = Field(description="Those that were set here.")
    pace: ProviderPace
    prices: dict[str, ProviderPriceShown] = Field(description="The operator's own, by model; * is for all.")
    peak_hours: str = Field(description="Hours in UTC in which it costs more; those that count.")
    peak_hours_set: str | None = Field(description="Those that were set here; empty for none, null where nothing was set.")
    warning: str
    by_name_only: bool
    demo: bool
    free: bool
    trouble: str = Field(description="What of its settings does not work.")
    health: ProviderHealth
    updated_at: datetime | None


class ProviderLimits(ApiModel):
    """0 means no limit, null goes back to the installation's own."""

    requests_per_minute: Whole | None = Field(None, ge=0, le=1_000_000)
    tokens_per_minute: Whole | None = Field(None, ge=0, le=1_000_000)
    concurrent: Whole | None = Field(None, ge=0, le=1_000_000)


class ProviderChange(ApiModel):
    """What is to be different. A member that is not there stays as it is."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "enabled": True,
                    "limits": {"requests_per_minute": 120},
                    "prices": {"*": {"input_usd": "0.15", "output_usd": "0.60"}},
                }
            ]
        },
    )

    enabled: Flag | None = None
    default_model: Text | None = Field(None, max_length=120, description="Empty goes back to the plugin's own.")
    values: dict[str, Text | None] = Field(
        default_factory=dict,
        max_length=50,
        description="Variable -> what it is to hold; null or empty removes what was set here. A key is sealed and never shown.",
    )
    limits: ProviderLimits | None = None
    prices: dict[str, ProviderPriceSet | None] = Field(
        default_factory=dict, max_length=200, description="Model, or * for all -> the operator's own price; null removes it."
    )
    peak_hours: Text | None = Field(
        None, max_length=255, description="Such as 09:00-17:00; empty for none, default for what the plugin says."
    )


class ProviderTest(ApiModel):
    """What to test."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "text"}]})

    kind: Literal["text", "images"] | None = Field(None, description="Without it, the first that it has.")
    model: Text = Field("", max_length=120, description="Without it, the default model.")


class ProviderTested(ApiModel):
    """What came of it."""

    ok: bool
    said: str = Field(description="What the model answered, or the vendor's own words about what is wrong.")
    code: str = Field(description="The error's, stable; empty where it is well.")
    model: str
    latency_ms: int
    cost_microusd: int
    tokens: int


class ProviderListedModel(ApiModel):
    """A model that the vendor lists."""

    id: str
    label: str
    context_tokens: int | None
    output_tokens: int | None
    capabilities: list[str] | None
    note: str


class ProviderListed(ApiModel):
    """What the vendor lists."""

    items: list[ProviderListedModel]
    trouble: str = Field(description="Why there is none, in the vendor's own words.")


class ProviderPath(ApiModel):
    """The address of a provider."""

    name: Text = Field(max_length=40)


class ProvidersQuery(ApiModel):
    """Which providers."""

    unusable: bool = Field(False, description="Also those that cannot be used. For administrators.")
