"""The limits of a person's plan: what an administrator stored in the plan, per calendar month."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from webapp.plugin import Dimension, Limit, QuotaPolicy, QuotaQuestion, Window, hookimpl

# Which of the plan's numbers counts requests of which operation. An operation that is not listed counts as messages.
_REQUESTS = {
    "content.generate": ("content", "content generations"),
    "content.suggest": ("content", "content generations"),
    "content.optimize": ("optimisation", "optimisations"),
    "sentiment.analyze": ("sentiment", "sentiment analyses"),
}


class PlanLimits(QuotaPolicy):
    """Requests of the operation's kind, tokens of all, and cost of all, each per month."""

    name = "plan-limits"
    steady = True

    def limits(self, question: QuotaQuestion) -> Iterable[Limit]:
        subject = f"person:{question.person_id}"
        name, label = _REQUESTS.get(question.operation, ("messages", "messages"))
        wanted = (
            (name, Dimension.REQUESTS, label),
            ("tokens", Dimension.TOKENS, "tokens"),
            ("cost_microusd", Dimension.COST, "spending"),
        )
        for key, dimension, words in wanted:
            maximum = question.plan_limits.get(key)
            if maximum is not None:
                yield Limit(subject, key, dimension, Window.MONTH, int(maximum), words)


@hookimpl
def register_quota_policies(settings: Mapping[str, str]) -> list[QuotaPolicy]:  # noqa: ARG001
    return [PlanLimits()]
