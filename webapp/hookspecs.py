"""Every hook of Switchhook. The docstrings are the reference: when a hook is called, with what, and what becomes of its answer.

A plugin implements any of them with `@hookimpl` from `webapp.plugin`, leaving out arguments it does not need. The registry
calls each implementation by itself: one that fails is reported and left out, the others go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from webapp.contracts.channels import Channel
    from webapp.contracts.events import DeliveryEvent, PersonEvent, PlanEvent, QuotaEvent, RequestEvent
    from webapp.contracts.limits import QuotaPolicy
    from webapp.contracts.providers import Provider
    from webapp.contracts.sorting import Categorizer

NAMESPACE = "switchhook"
hookspec = pluggy.HookspecMarker(NAMESPACE)
hookimpl = pluggy.HookimplMarker(NAMESPACE)


@hookspec
def register_providers(settings: Mapping[str, str]) -> Iterable[Provider]:  # type: ignore[empty-body]
    """Return model providers, of text or of images. Called at start, and again whenever an administrator changes a
    provider's settings: the new objects then take the place of the old ones. `settings` are environment variables by name,
    without the core's own secrets, and over them what an administrator has set; a variable that is not set is absent.
    Building a provider must be cheap: no I/O, no heavy import."""


@hookspec
def register_categorizers(settings: Mapping[str, str]) -> Iterable[Categorizer]:  # type: ignore[empty-body]
    """Return categorizers. Called once, at start. Every categorizer is asked about every chat request; the surest wins.
    Where none is sure enough, one that asks a model (`AskingCategorizer`) gets its turn."""


@hookspec
def register_quota_policies(settings: Mapping[str, str]) -> Iterable[QuotaPolicy]:  # type: ignore[empty-body]
    """Return policies: objects that say which limits apply to a request. Called once, at start. Every policy is asked about
    every request; all their limits are held in one step, so a policy never counts or locks anything itself. A policy that
    raises refuses the request: an unknown limit is not an absent one."""


@hookspec
def register_channels(settings: Mapping[str, str]) -> Iterable[Channel]:  # type: ignore[empty-body]
    """Return channels. Called once, at start. A channel's blueprint is registered with the application as it is; its routes
    are exempt from CSRF tokens because they prove their origin by the vendor's signature."""


@hookspec
def request_admitted(event: RequestEvent) -> None:
    """A request was stored with its holds. Called after the commit, in the process that admitted it."""


@hookspec
def request_completed(event: RequestEvent) -> None:
    """A request ended with an answer. Called after the commit, in the process that settled it."""


@hookspec
def request_failed(event: RequestEvent) -> None:
    """A request ended without an answer: failed or cancelled. Called after the commit."""


@hookspec
def quota_warning(event: QuotaEvent) -> None:
    """A limit has reached a percentage at which people are told (80 and 100 unless set otherwise), or refused a request and has
    nothing left: once for each percentage, limit and window. Called after the commit."""


@hookspec
def plan_changed(event: PlanEvent) -> None:
    """A person's or an organization's plan was changed. Called after the commit."""


@hookspec
def person_created(event: PersonEvent) -> None:
    """Somebody new is known, by registration, by texting, or by an administrator. Called after the commit."""


@hookspec
def message_received(event: DeliveryEvent) -> None:
    """A message came in by a channel, for the first time. Called after the commit."""


@hookspec
def delivery_updated(event: DeliveryEvent) -> None:
    """An outgoing message changed its status. Called after the commit."""
