"""Anthropic's errors: from an error body to the typed errors of the core, by status, then by code, then by wording.

The vendor asks to branch on `error.details.error_code` and says that its wording may change; but for a prompt that is too
long, a content filter and an empty account under status 400 there is nothing else to go by.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.plugin import ProviderError, about_key, about_length, about_policy, error_for_status

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_NO_CREDIT = {
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
    "linked_organization_billing_unavailable",
}
_NO_CREDIT_WORDS = re.compile(r"credit balance|spend(ing)? limit|usage limits?\b", re.I)
# How a complaint names a field that a call can do without.
_NAMES = {
    "temperature": re.compile(r"\btemperature\b|\bsampling\b", re.I),
    "top_p": re.compile(r"\btop_p\b|\bsampling\b", re.I),
    "stop_sequences": re.compile(r"\bstop_sequences?\b", re.I),
    "metadata": re.compile(r"\bmetadata\b|\buser_id\b", re.I),
    "output_config": re.compile(r"\boutput_(config|format)\b|structured output|schema", re.I),
    "strict": re.compile(r"\bstrict\b|\btools?\b.*schema", re.I),
}
OPTIONAL = tuple(_NAMES)
"""Fields that a call can do without; `strict` is one of its tools'."""
_UNSUPPORTED = re.compile(
    r"unsupported|not (be )?(supported|allowed|permitted|available)|n't (support|allow|take)|does not (support|take)"
    r"|deprecated|removed|extra inputs|unexpected|unrecogni[sz]ed|unknown|may only be",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error body. Empty strings where it said nothing."""

    message: str = ""
    kind: str = ""
    code: str = ""
    request_id: str = ""

    @classmethod
    def read(cls, body: bytes) -> Complaint:
        """From the bytes of a body: Anthropic's own shape, or whatever a proxy put in its place."""
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            return cls(message=body.decode("utf-8", "replace"))
        return cls.of(payload)

    @classmethod
    def of(cls, payload: object) -> Complaint:
        """From a parsed body or the data of an `error` event; the error may lie in `error` or at the top."""
        if not isinstance(payload, dict):
            return cls(message=_word(payload))
        error = payload.get("error")
        if not isinstance(error, dict):
            error = {"message": error} if isinstance(error, str) else payload
        details = error.get("details")
        return cls(
            message=_word(error.get("message")) or _word(error.get("detail")),
            kind=_word(error.get("type"))[:100],
            code=_word(details.get("error_code"))[:100] if isinstance(details, dict) else "",
            request_id=_word(payload.get("request_id"))[:100],
        )

    @property
    def words(self) -> str:
        """Everything it said, to be searched."""
        return f"{self.code} {self.kind} {self.message}".strip()

    def refused_field(self, sent: Iterable[str]) -> str:
        """Which of the fields that were sent it complains about, '' if it is about none that can be left out."""
        return next((name for name in sent if name in _NAMES and _NAMES[name].search(self.message)), "")

    def is_lasting(self, field: str) -> bool:
        """Whether the model never takes the field, rather than not with this value. A complaint about a schema may be about
        one keyword in it, unless it speaks of the model."""
        if _UNSUPPORTED.search(self.message) is None:
            return False
        return field not in ("output_config", "strict") or "model" in self.message.lower()


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def from_status(label: str, status: int, said: Complaint, detail: str, retry_after_s: float | None) -> ProviderError:
    """The error for an HTTP status that is not a success."""
    no_credit = (
        said.code in _NO_CREDIT
        or said.kind == "billing_error"
        or (status == 400 and _NO_CREDIT_WORDS.search(said.message) is not None)
    )
    return error_for_status(label, status, said.words, detail, retry_after_s=retry_after_s, no_credit=no_credit)


def from_error_in_answer(label: str, said: Complaint, detail: str) -> ProviderError:
    """The error for one that came after status 200, by its type; its `status` is None."""
    status = _STATUS.get(said.kind)
    if status is None:
        words = said.words
        status = 400 if about_length(words) or about_policy(words) else 401 if about_key(words) else 500
    error = from_status(label, status, said, detail, None)
    error.status = None
    return error
