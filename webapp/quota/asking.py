"""Which limits apply: every policy is asked, and none may fail."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from webapp.contracts.limits import Dimension, Limit, QuotaPolicy, QuotaQuestion, Window
from webapp.contracts.texts import frames
from webapp.extensions import current_settings
from webapp.models.senders import Sender
from webapp.quota import credits, stored
from webapp.registry import current_registry

log = logging.getLogger(__name__)


class PolicyFailed(Exception):
    """A quota policy raised, or returned what is no limit; or what is stored cannot be read as limits."""


def question_of(sender: Sender, operation: str, channel: str, allocation_millicredits: int | None = None) -> QuotaQuestion:
    """What the policies are asked about a request of this sender. Raises `PolicyFailed`."""
    try:
        return QuotaQuestion(
            person_id=str(sender.person_id),
            organization_id=str(sender.organization_id),
            plan=sender.plan,
            plan_limits=sender.plan_limits,
            operation=operation,
            channel=channel,
            more_plan_limits=stored.read(sender.more_plan_limits),
            organization_limits=stored.read(sender.organization_limits),
            person_limits=stored.read(sender.person_limits),
            token_limits=stored.read(sender.token_limits),
            token_id=str(sender.token_id or ""),
            allocation_millicredits=allocation_millicredits,
        )
    except (ValueError, KeyError) as exc:
        raise PolicyFailed(f"The stored limits of {sender.person_id} or their organization cannot be read: {exc}") from exc


def limits_for(question: QuotaQuestion, policies: Iterable[QuotaPolicy] | None = None) -> list[Limit]:
    """What every policy says, or each of `policies`. An unknown limit is not an absent one: a policy that fails raises
    `PolicyFailed`."""
    found: dict[tuple[str, str, Window], Limit] = {}
    for policy in current_registry().policies.values() if policies is None else policies:
        try:
            for limit in policy.limits(question):
                if not isinstance(limit, Limit):
                    raise TypeError(f"a {type(limit).__name__} is no limit")
                same = found.setdefault((limit.subject, limit.name, limit.window), limit)
                if (same.dimension, same.provider) != (limit.dimension, limit.provider):
                    raise ValueError(f"the limit {limit.name} is there already, of another kind")
                # Two policies with the same limit: the stricter one holds.
                if limit.maximum < same.maximum:
                    found[limit.subject, limit.name, limit.window] = limit
        except (Exception, SystemExit) as exc:
            log.error("the quota policy %s failed: %s\n%s", policy.name, type(exc).__name__, frames(exc))
            raise PolicyFailed(f"The quota policy {policy.name} failed: {type(exc).__name__}: {exc}") from exc
    return list(found.values())


def limits_of(sender: Sender, operation: str, channel: str, allocation: int | None) -> list[Limit]:
    """What every policy says of a request of this sender; `allocation` is in credits, None for the installation's setting."""
    credited = current_settings().allocation_credits if allocation is None else allocation
    return limits_for(question_of(sender, operation, channel, credited * credits.MILLI))


def steady() -> bool:
    """Whether every policy says the same whenever it is asked the same."""
    return all(policy.steady is True for policy in current_registry().policies.values())


def cap_microusd(limits: Iterable[Limit]) -> int | None:
    """What all calls of one request together may cost by the limits on single requests, None for no such limit."""
    caps = []
    for limit in limits:
        if limit.window is Window.REQUEST and limit.dimension is Dimension.COST:
            caps.append(limit.maximum)
        elif limit.window is Window.REQUEST and limit.dimension is Dimension.CREDITS:
            caps.append(credits.worth(limit.maximum))
    return min(caps, default=None)


def held_at(limits: Iterable[Limit], provider: str) -> list[Limit]:
    """Those that are held when a request is admitted whose first provider will be this one."""
    return [limit for limit in limits if limit.provider in ("", provider)]
