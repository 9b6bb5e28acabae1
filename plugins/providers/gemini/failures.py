"""What Gemini's errors mean: Google's `error` object, from a status or inside an answer, to the typed errors of the core.

The status counts first, then the reasons and quota ids in the details, then the wording. Messages name the vendor and never
hold a key or a prompt; the vendor's own words go to `detail`, which only operators see.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.plugin import (
    BadCredentials,
    ContextTooLong,
    ProviderError,
    RateLimited,
    Rejected,
    about_key,
    about_length,
    about_policy,
    error_for_status,
)

_DAY_S = 86_400.0
_DETAILS = 50
_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_KEY_REASONS = {"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "ACCESS_TOKEN_TYPE_UNSUPPORTED"}
# Every 429 advises to "check your plan and billing details": that alone is no sign of an empty account.
_NO_CREDIT = re.compile(
    r"prepa(id|yment) credits?|credits? (is|are|has been|have been) (depleted|exhausted|used up)"
    r"|enable billing|billing (account )?(is |has been )?(disabled|not (enabled|active))",
    re.I,
)
_TOO_LARGE = re.compile(r"payload size exceeds|request (is )?too large", re.I)
_PICTURE_KIND = re.compile(r"unsupported mime[_ ]type", re.I)
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s\Z")
_UNSUPPORTED = re.compile(
    r"not supported|unsupported|does not support|not enabled|not available|not allowed|unknown name|cannot find field", re.I
)
# Fields that a model may refuse without the call losing its meaning, and how Google names them in its complaints.
_OPTIONAL = {
    "temperature": re.compile(r"temperature", re.I),
    "topP": re.compile(r"top[_ ]?p\b", re.I),
    "thinkingConfig": re.compile(r"thinking", re.I),
    "stopSequences": re.compile(r"stop[_ ]?sequence", re.I),
    # `parametersJsonSchema` is a tool's, and not to be left out.
    "responseJsonSchema": re.compile(r"(?<!parameters_json_)(?<!parametersJson)schema", re.I),
    "responseMimeType": re.compile(r"json mode|response[_ ]?mime[_ ]?type", re.I),
    "systemInstruction": re.compile(r"(system|developer)[_ ]?instruction", re.I),
    "imageSize": re.compile(r"image[_ ]?size", re.I),
    "aspectRatio": re.compile(r"aspect[_ ]?ratio", re.I),
}
# A schema can be too complex and a way of thinking wrong for the model: the call is worth more without them.
_ANY_FAULT = {"responseJsonSchema", "thinkingConfig"}


class DailyQuotaUsedUp(RateLimited):
    """A quota for the whole day is used up: asking again within minutes cannot help."""

    retryable = False


@dataclass(frozen=True, slots=True)
class Complaint:
    """Google's error object. Empty where it said nothing; `code` is the HTTP status that it repeats, 0 for none."""

    message: str = ""
    status: str = ""
    code: int = 0
    reasons: tuple[str, ...] = ()
    quota_ids: tuple[str, ...] = ()
    retry_after_s: float | None = None

    @classmethod
    def read(cls, payload: object) -> Complaint:
        """From a parsed body: the object `error`, alone or in a list as on the route that answers with an array."""
        if isinstance(payload, list):
            payload = next((entry for entry in payload if isinstance(entry, dict) and entry.get("error")), None)
        if not isinstance(payload, dict):
            return cls(message=payload if isinstance(payload, str) else "")
        error = payload.get("error") or payload
        if not isinstance(error, dict):
            return cls(message=error if isinstance(error, str) else "")
        code, message = error.get("code"), error.get("message")
        details = list(_objects(error.get("details")))
        return cls(
            message=message if isinstance(message, str) else "",
            status=_word(error.get("status")),
            code=code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 0,
            reasons=tuple(reason for entry in details if (reason := _word(entry.get("reason")))),
            quota_ids=tuple(
                quota
                for entry in details
                for violation in _objects(entry.get("violations"))
                if (quota := _word(violation.get("quotaId")))
            ),
            retry_after_s=next((s for entry in details if (s := _seconds(entry.get("retryDelay"))) is not None), None),
        )

    @property
    def words(self) -> str:
        """Everything it said, to be searched and shown to operators."""
        return " ".join(part for part in (self.status, *self.reasons, *self.quota_ids, self.message) if part)

    @property
    def no_credit(self) -> bool:
        """Whether it says that money is what is missing."""
        return "BILLING_DISABLED" in self.reasons or _NO_CREDIT.search(self.message) is not None

    @property
    def whole_day(self) -> bool:
        """Whether a quota is used up that is counted by the day."""
        return any("perday" in quota.lower() for quota in self.quota_ids)

    @property
    def unsupported(self) -> bool:
        """Whether it says that the model does not take something, whatever its value."""
        return _UNSUPPORTED.search(self.message) is not None

    def refused_field(self, sent: Collection[str]) -> str:
        """Which of the optional fields in `sent` it is about, '' for none."""
        for name, pattern in _OPTIONAL.items():
            if name in sent and pattern.search(self.message) and (self.unsupported or name in _ANY_FAULT):
                return name
        return ""


def optional_fields(body: Mapping[str, Any]) -> list[str]:
    """The fields of a body that could be left out."""
    config = body.get("generationConfig", {})
    return [name for name in _OPTIONAL if name in body or name in config or name in config.get("imageConfig", {})]


def from_status(label: str, status: int, said: Complaint, detail: str, retry_after_s: float | None) -> ProviderError:
    """The error for an HTTP status that is not a success. A waiting time of the header goes before the body's."""
    wait_s = said.retry_after_s if retry_after_s is None else retry_after_s
    no_credit = status in (400, 403, 429) and said.no_credit
    if status == 429 and said.whole_day and not no_credit:
        return DailyQuotaUsedUp(f"The quota for the day at {label} is used up.", status=status, detail=detail)
    if status == 400 and not no_credit:
        if _KEY_REASONS.intersection(said.reasons):
            return BadCredentials(f"{label} does not accept the API key for this.", status=status, detail=detail)
        if said.status == "FAILED_PRECONDITION":
            return Rejected(f"{label} does not serve this account or region.", status=status, detail=detail)
        if _TOO_LARGE.search(said.message):
            return ContextTooLong(f"This is more than {label} takes in one call.", status=status, detail=detail)
        if _PICTURE_KIND.search(said.message):
            return Rejected(f"{label} does not read this kind of picture.", status=status, detail=detail)
    return error_for_status(label, status, said.words, detail, retry_after_s=wait_s, no_credit=no_credit)


def from_error_in_answer(label: str, said: Complaint, detail: str) -> ProviderError:
    """The error for an `error` object inside an answer that began as a success."""
    status = said.code or _STATUSES.get(said.status, 0)
    if status:
        return from_status(label, status, said, detail, None)
    if about_length(said.words) or about_policy(said.words):
        status = 400
    elif about_key(said.words) or _KEY_REASONS.intersection(said.reasons):
        status = 401
    error = from_status(label, status or 500, said, detail, None)
    error.status = None
    return error


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects in a list from outside, at most a few."""
    for entry in value[:_DETAILS] if isinstance(value, list) else ():
        if isinstance(entry, dict):
            yield entry


def _word(value: object) -> str:
    return value[:100] if isinstance(value, str) else ""


def _seconds(value: object) -> float | None:
    """Seconds of a protobuf duration such as `37.5s`, at most a day."""
    found = _DELAY.match(value) if isinstance(value, str) else None
    return min(float(found[1]), _DAY_S) if found else None
