"""What OpenAI's complaints about an image call mean: the status first, then the code, then the wording."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from webapp.plugin import ContextTooLong, ProviderError, Rejected, error_for_status

OPTIONAL = ("size", "quality", "moderation", "safety_identifier")
"""Fields that a model may refuse without the call losing its meaning."""

_NO_CREDIT = frozenset({"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"})
_FIELD_REFUSED = frozenset({"unknown_parameter", "unsupported_parameter", "unsupported_value", "invalid_value"})
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unrecogni[sz]ed|unknown (parameter|argument|field)", re.I
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error body. Empty strings where it said nothing."""

    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""

    @classmethod
    def parse(cls, body: bytes) -> Complaint:
        """From the bytes of a body; what is not JSON is the message."""
        try:
            return cls.read(json.loads(body))
        except (ValueError, RecursionError):
            return cls(message=body.decode("utf-8", "replace"))

    @classmethod
    def read(cls, payload: object) -> Complaint:
        """From a parsed body, whose `error` is an object or a string."""
        error = payload.get("error", payload) if isinstance(payload, dict) else payload
        if not isinstance(error, dict):
            return cls(message=error if isinstance(error, str) else "")
        message = error.get("message")
        return cls(
            message=message if isinstance(message, str) else "",
            code=_word(error.get("code")),
            kind=_word(error.get("type")),
            param=_word(error.get("param")),
        )

    @property
    def words(self) -> str:
        """Everything it said, to be searched."""
        return f"{self.code} {self.kind} {self.message}"

    def refused_field(self) -> str:
        """Which optional field the model does not take, '' if that is not the complaint."""
        if self.code not in _FIELD_REFUSED and not _UNSUPPORTED.search(self.words):
            return ""
        if self.param:
            return self.param if self.param in OPTIONAL else ""
        return next((name for name in OPTIONAL if re.search(rf"\b{name}\b", self.message)), "")

    def error(self, label: str, status: int, detail: str, retry_after_s: float | None) -> ProviderError:
        """The typed error for it."""
        if status in (400, 422):
            if self.code == "string_above_max_length":
                return ContextTooLong(f"This is more text than the model at {label} reads.", status=status, detail=detail)
            if self.refused_field():  # "moderation" is a field's name here, and no word about the content
                return Rejected(f"{label} does not accept the call (status {status}).", status=status, detail=detail)
        # The kind reads `insufficient_quota` for other limits too: the code counts where there is one.
        no_credit = status in (400, 403, 429) and (self.code or self.kind) in _NO_CREDIT
        return error_for_status(label, status, self.words, detail, retry_after_s=retry_after_s, no_credit=no_credit)


def _word(value: object) -> str:
    """A code as text: some servers send numbers."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)[:100]
