"""Limits that administrators and managers store with a plan, an organization, a person or a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from webapp.plugin import Dimension, Limit, QuotaPolicy, QuotaQuestion, StoredLimit, hookimpl

_WORDS = {
    Dimension.REQUESTS: "requests",
    Dimension.TOKENS: "tokens",
    Dimension.COST: "spending",
    Dimension.CREDITS: "credits",
}


class StoredLimits(QuotaPolicy):
    """Each stored limit that is about requests of this operation, counted for whom it is about."""

    name = "stored-limits"
    steady = True

    def limits(self, question: QuotaQuestion) -> Iterable[Limit]:
        person = f"person:{question.person_id}"
        organization = f"organization:{question.organization_id}"
        for stored in question.organization_limits:
            yield from _limit(
                stored, person if stored.each else organization, question, "" if stored.each else "organization's "
            )
        for stored in (*question.more_plan_limits, *question.person_limits):
            yield from _limit(stored, person, question, "")
        for stored in question.token_limits:
            yield from _limit(stored, f"token:{question.token_id}", question, "token's ")


def _limit(stored: StoredLimit, subject: str, question: QuotaQuestion, whose: str) -> Iterable[Limit]:
    if stored.operation not in ("", question.operation):
        return
    label = stored.label or whose + _WORDS[stored.dimension]
    if stored.provider and not stored.label:
        label += f" at {stored.provider}"
    name = f"limit:{stored.id}"
    yield Limit(subject, name, stored.dimension, stored.window, stored.maximum, label, provider=stored.provider)


@hookimpl
def register_quota_policies(settings: Mapping[str, str]) -> list[QuotaPolicy]:  # noqa: ARG001
    return [StoredLimits()]
