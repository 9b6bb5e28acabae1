"""What a vendor's failure means: from a status, an error body or a network error to the typed errors of the core.

The status counts first, then the vendor's code, then its wording. Messages name the vendor and never hold a key or a
prompt; the vendor's own words go to `detail`, which only operators see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.plugin import ProviderError, Rejected, about_key, about_length, about_policy, error_for_status

_NO_CREDIT = {"insufficient_quota", "credit_balance_exhausted", "insufficient_balance", "billing_hard_limit_reached"}
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unrecogni[sz]ed|unknown (parameter|argument|field|name)"
    r"|extra[ _](inputs|fields|forbidden)|not permitted",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error body, whichever of the customary shapes it had. Empty strings where it said nothing."""

    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""

    @classmethod
    def read(cls, payload: object) -> Complaint:
        """From a parsed body: `error` as an object or a string, FastAPI's `detail`, or the fields at the top."""
        if not isinstance(payload, dict):
            return cls(message=payload if isinstance(payload, str) else "")
        error = payload.get("error")
        if isinstance(error, str) and error:
            return cls(message=error, code=_word(payload.get("code")), kind=_word(payload.get("type")))
        if not isinstance(error, dict):
            if isinstance(detail := payload.get("detail"), list):
                return cls._fastapi(detail)
            error = {"message": detail} if isinstance(detail, str) else detail if isinstance(detail, dict) else payload
        message = error.get("message")
        return cls(
            message=message if isinstance(message, str) else json.dumps(message) if message else "",
            code=_word(error.get("code")),
            kind=_word(error.get("type")),
            param=_word(error.get("param")),
        )

    @classmethod
    def _fastapi(cls, detail: list[object]) -> Complaint:
        faults = [fault for fault in detail if isinstance(fault, dict)]
        if not faults:
            return cls(message="; ".join(str(fault) for fault in detail))
        place = [str(step) for step in faults[0].get("loc") or () if step != "body"]
        words = "; ".join(str(fault.get("msg", "")) for fault in faults)
        return cls(message=words, kind=_word(faults[0].get("type")), param=".".join(place))

    @property
    def words(self) -> str:
        """Everything it said, to be searched."""
        return f"{self.code} {self.kind} {self.message}"

    def unsupported_field(self, fields: Iterable[str]) -> str:
        """Which of `fields` the vendor does not take, '' if that is not the complaint."""
        if not _UNSUPPORTED.search(self.words) or self.code == "invalid_json_schema":
            return ""  # a schema that is wrong by itself says nothing about the next one
        named = self.param.partition(".")[0].partition("[")[0]
        if named:
            return named if named in fields else ""
        return next((name for name in fields if re.search(rf"\b{re.escape(name)}\b", self.message)), "")

    def refuses_strict(self) -> bool:
        """Whether the vendor does not know `strict` of a tool, whatever the schema."""
        named = re.search(r"\bstrict\b", f"{self.param} {self.message}", re.I) is not None
        return named and _UNSUPPORTED.search(self.words) is not None and not self.code.startswith("invalid_function")

    def about_strict(self) -> bool:
        """Whether the vendor complains about holding the model to a tool's schema, or about such a schema."""
        return "strict" in f"{self.param} {self.message}".lower() or re.match(r"tools\b.*parameters", self.param) is not None


def _word(value: object) -> str:
    """A code as text: some servers send numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)[:100]


def from_status(label: str, status: int, said: Complaint, detail: str, retry_after_s: float | None) -> ProviderError:
    """The error for an HTTP status that is not a success."""
    no_credit = status in (403, 429) and (said.code in _NO_CREDIT or (not said.code and said.kind in _NO_CREDIT))
    return error_for_status(label, status, said.words, detail, retry_after_s=retry_after_s, no_credit=no_credit)


def final(label: str, error: ProviderError) -> ProviderError:
    """The same failure where the vendor says `x-should-retry: false`: `Rejected`, the nearest type that is not tried again.

    An error that is final already stays as it is, for its type tells more. `x-should-retry: true` is not looked at: what is
    final by its status stays final, whatever a server wishes.
    """
    if not error.retryable:
        return error
    message = f"{label} has trouble (status {error.status}) and says that trying again does not help."
    return Rejected(message, status=error.status, detail=error.detail, usage=error.usage)


def from_error_in_answer(label: str, said: Complaint, detail: str) -> ProviderError:
    """The error for an `error` object inside an answer that began as a success."""
    if said.code.isdigit() and 400 <= int(said.code) < 600:
        return from_status(label, int(said.code), said, detail, None)
    words = said.words.lower()
    if said.code in _NO_CREDIT or said.kind in _NO_CREDIT:
        status = 402
    elif "rate_limit" in words or "rate limit" in words or "slow_down" in words:
        status = 429
    elif "invalid_request" in words or about_length(words) or about_policy(words):
        status = 400
    elif about_key(words):
        status = 401
    elif "not_found" in words:
        status = 404
    else:
        status = 500
    error = from_status(label, status, said, detail, None)
    error.status = None
    return error
