"""Which queue a request goes to."""

from __future__ import annotations

import pytest

from webapp.queues import HIGH, LOW, NORMAL, queue_for
from webapp.quota.priority import score

PLANS = {"enterprise": 100, "business": 80, "professional": 60, "premium": 50, "starter": 40, "free": 20}


@pytest.mark.parametrize(
    ("plan", "operation", "urgent", "points", "queue"),
    [
        ("free", "chat", False, 20, LOW),
        ("free", "sentiment.analyze", False, 30, LOW),
        ("free", "chat", True, 70, NORMAL),
        ("free", "sentiment.analyze", True, 80, HIGH),
        ("starter", "chat", False, 40, NORMAL),
        ("starter", "content.optimize", True, 95, HIGH),
        ("premium", "content.optimize", False, 55, NORMAL),
        ("professional", "sentiment.analyze", False, 70, NORMAL),
        ("business", "chat", False, 80, HIGH),
        ("enterprise", "sentiment.analyze", True, 160, HIGH),
    ],
)
def test_plan_operation_and_urgency_add_up(plan: str, operation: str, urgent: bool, points: int, queue: str) -> None:
    found = score(PLANS[plan], operation, urgent)
    assert found == points
    assert queue_for(found) == queue


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("urgent", [False, True])
def test_requests_of_a_batch_go_to_the_low_queue_whatever_the_plan(plan: str, urgent: bool) -> None:
    found = score(PLANS[plan], "sentiment.analyze", urgent, batch=True)
    assert found == 0
    assert queue_for(found) == LOW


@pytest.mark.parametrize("operation", ["chat", "content.generate", "image.generate", "", "sentiment"])
def test_other_operations_add_nothing(operation: str) -> None:
    assert score(50, operation, False) == 50
