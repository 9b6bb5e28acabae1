"""What a limit is made of: what cannot be counted, stored or told is refused where it is made, by the policy's fault."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.contracts.limits import (
    KEY_CHARS,
    LABEL_CHARS,
    MAXIMUM,
    PROVIDER_CHARS,
    Dimension,
    Limit,
    QuotaPolicy,
    QuotaQuestion,
    Window,
)
from webapp.quota import asking
from webapp.quota.asking import PolicyFailed

GOOD: dict[str, Any] = {
    "subject": "person:x",
    "name": "messages",
    "dimension": Dimension.REQUESTS,
    "window": Window.MONTH,
    "maximum": 1,
    "label": "messages",
    "provider": "",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("maximum", True),
        ("maximum", 1.0),
        ("maximum", -1),
        ("maximum", MAXIMUM + 1),
        ("label", None),
        ("label", "a\x00b"),
        ("label", "a\ud800"),
        ("label", "x" * (LABEL_CHARS + 1)),
        ("provider", None),
        ("provider", "a\ud800"),
        ("provider", "x" * (PROVIDER_CHARS + 1)),
        ("subject", ""),
        ("subject", "x" * (KEY_CHARS + 1)),
        ("subject", 7),
        ("name", ""),
        ("name", "a\x07"),
    ],
)
def test_a_policy_with_a_limit_that_is_none_has_failed(field: str, value: object) -> None:
    class Policy(QuotaPolicy):
        name = "theirs"

        def limits(self, question: QuotaQuestion) -> list[Limit]:
            return [Limit(**(GOOD | {field: value}))]

    question = QuotaQuestion("", "", "", {}, "chat", "web")
    with pytest.raises(PolicyFailed, match=field) as failed:
        asking.limits_for(question, [Policy()])
    str(failed.value).encode()


def test_a_limit_may_be_as_long_as_its_columns() -> None:
    longest = {"subject": "s" * KEY_CHARS, "name": "n" * KEY_CHARS, "label": "", "provider": "p" * PROVIDER_CHARS}
    assert Limit(**(GOOD | longest)).maximum == 1
