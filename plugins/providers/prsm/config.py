"""How PRSM is set up: the contracts that its servers speak, and the operator's settings, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from webapp.plugin import Variable, VariableKind, is_usable_url

LABEL = "PRSM"
DEFAULT_MODEL = "nwtn"
DEFAULT_DIALECT = "node"
_AMOUNT_MAX = Decimal(1_000_000_000)
_AMOUNT_CHARS = 40


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the contracts in PRSM's code. '' where it has no such path."""

    name: str
    path: str
    stream_path: str = ""
    session_path: str = ""
    """Where a session that the call started is looked up, by its id."""
    balance_path: str = ""
    models_path: str = ""
    bearer: bool = False
    """The key as a bearer token, or as `X-API-Key`."""


# Source: the repository Ryno2390/PRSM, June 2026: the node's API, the model of the platform's query, and two SDKs.
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "node",
            "/compute/inference",
            stream_path="/compute/inference/stream",
            balance_path="/balance",
            models_path="/compute/models",
        ),
        Dialect("platform", "/query", bearer=True),
        Dialect("hosted-js", "/api/v1/nwtn/query", session_path="/api/v1/nwtn/sessions"),
        Dialect("hosted-go", "/nwtn/query", bearer=True),
    )
}

ENVIRONMENT = (
    Variable("PRSM_API_URL", "Address of a PRSM node or service, such as http://localhost:8000.", kind=VariableKind.URL),
    Variable("PRSM_API_KEY", "API key of the PRSM node or service, where it wants one.", secret=True),
    Variable("PRSM_MODEL", "Model to use at PRSM.", default=DEFAULT_MODEL, kind=VariableKind.MODEL),
    Variable(
        "PRSM_DIALECT",
        "Which of PRSM's contracts the address speaks: a node of your own, the platform, or a hosted service of either SDK.",
        default=DEFAULT_DIALECT,
        choices=("platform", "node", "hosted-js", "hosted-go"),
    ),
    Variable("PRSM_BUDGET_FTNS", "The most that one answer may cost, in FTNS.", default="1.0", kind=VariableKind.NUMBER),
    Variable(
        "PRSM_FTNS_USD",
        "Dollars for one FTNS, to reckon costs with. Left empty, costs in dollars are unknown.",
        kind=VariableKind.NUMBER,
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, as far as they can be used; `fault` names the first that cannot."""

    base_url: str
    key: str
    model: str
    dialect: Dialect
    budget_ftns: Decimal
    ftns_usd: Decimal | None
    fault: str

    @classmethod
    def read(cls, settings: Mapping[str, str]) -> Config:
        """From the environment; what is not set has its default."""
        given = {variable.name: settings.get(variable.name, "").strip() for variable in ENVIRONMENT}
        spoken = given["PRSM_DIALECT"].lower() or DEFAULT_DIALECT
        budget = amount(given["PRSM_BUDGET_FTNS"] or "1.0")
        return cls(
            base_url=given["PRSM_API_URL"].rstrip("/"),
            key=given["PRSM_API_KEY"],
            model=given["PRSM_MODEL"] or DEFAULT_MODEL,
            dialect=DIALECTS.get(spoken, DIALECTS[DEFAULT_DIALECT]),
            budget_ftns=budget or Decimal(1),
            ftns_usd=amount(given["PRSM_FTNS_USD"]),
            fault=_fault(given, spoken, budget),
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every call."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self.key and self.dialect.bearer:
            headers["Authorization"] = f"Bearer {self.key}"
        elif self.key:
            headers["X-API-Key"] = self.key
        return headers


def _fault(given: Mapping[str, str], spoken: str, budget: Decimal | None) -> str:
    if not given["PRSM_API_URL"]:
        return "PRSM_API_URL is not set"
    if not is_usable_url(given["PRSM_API_URL"]):
        return "PRSM_API_URL is not an http or https address without user and password"
    if not (given["PRSM_API_KEY"].isascii() and given["PRSM_API_KEY"].isprintable()):
        return "PRSM_API_KEY holds characters that cannot be sent in a header"
    if spoken not in DIALECTS:
        return f"PRSM_DIALECT is none of {', '.join(sorted(DIALECTS))}"
    if not budget:
        return "PRSM_BUDGET_FTNS is not an amount above 0"
    if given["PRSM_FTNS_USD"] and amount(given["PRSM_FTNS_USD"]) is None:
        return "PRSM_FTNS_USD is not an amount of dollars"
    return ""


def amount(value: object) -> Decimal | None:
    """An amount of FTNS or dollars, None where it cannot be one. Texts and numbers are both in use."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = value.strip() if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
    if not (text.isascii() and 0 < len(text) <= _AMOUNT_CHARS) or "_" in text:
        return None
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    if not found.is_finite() or not 0 <= found <= _AMOUNT_MAX or found.adjusted() < -_AMOUNT_CHARS:
        return None
    return found
