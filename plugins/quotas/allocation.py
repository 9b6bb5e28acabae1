"""What one request may cost by itself: the credits that were allotted to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from webapp.plugin import Dimension, Limit, QuotaPolicy, QuotaQuestion, Window, hookimpl


class Allocation(QuotaPolicy):
    """All calls of the request together cost at most its allocation."""

    name = "allocation"
    steady = True

    def limits(self, question: QuotaQuestion) -> Iterable[Limit]:
        if question.allocation_millicredits is not None:
            yield Limit(
                f"person:{question.person_id}",
                "allocation",
                Dimension.CREDITS,
                Window.REQUEST,
                question.allocation_millicredits,
                "credits",
            )


@hookimpl
def register_quota_policies(settings: Mapping[str, str]) -> list[QuotaPolicy]:  # noqa: ARG001
    return [Allocation()]
