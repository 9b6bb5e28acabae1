"""How a provider stands, in a word and a colour, for the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from webapp.services.providers import ProviderView
from webapp.web.rendering import moment

KIND_WORDS = {"text": "text", "images": "pictures"}


@dataclass(frozen=True, slots=True)
class Standing:
    """A provider's state in a word and a colour (good, warn, bad, off, unset), and what there is to say beside it."""

    tone: str
    word: str
    more: str | Markup = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A provider as a page shows it."""

    view: ProviderView
    standing: Standing
    kinds: str
    in_use: bool
    resting: bool
    """Whether there is something that `Try again now` ends."""


def card(view: ProviderView, at: datetime) -> Card:
    """A provider as it stands at this moment."""
    kinds = " and ".join(KIND_WORDS.get(kind, kind) for kind in view.kinds)
    paused = view.state.paused_until is not None and view.state.paused_until > at
    resting = paused or bool(view.state.rests) or any(circuit.state != "closed" for circuit in view.state.circuits)
    return Card(view, _standing(view, at), kinds, view.enabled and view.ready and not _unseen(view), resting)


def _unseen(view: ProviderView) -> bool:
    """A server that needs no key is always ready; whether it is there is another matter."""
    return view.free and not view.demo and not view.seen_ok and not view.live.calls


def _standing(view: ProviderView, at: datetime) -> Standing:
    if not view.enabled:
        return Standing("off", "Switched off", "" if view.ready else view.missing)
    if not view.ready:
        return Standing("unset", "Not set up", view.missing)
    state = view.state
    if state.paused_until is not None and state.paused_until > at:
        why = state.pause_reason.rstrip(". ") or "the vendor asked for it"
        return Standing("bad", "Resting", Markup("No calls until {}: {}.").format(moment(state.paused_until), why))
    resting = [circuit for circuit in state.circuits if circuit.state != "closed"]
    if resting:
        names = ", ".join(circuit.target for circuit in resting)
        ends = [circuit.until for circuit in resting if circuit.until is not None]
        if any(circuit.state == "probing" for circuit in resting) or not ends or min(ends) <= at:
            return Standing("bad", "Resting after failures", f"{names}: the next request tries it again.")
        return Standing("bad", "Resting after failures", Markup("{}: left alone until {}.").format(names, moment(min(ends))))
    if state.rests:
        rest = min(state.rests, key=lambda rest: rest.until)
        return Standing(
            "warn", "One model rests", Markup("{} until {}: {}.").format(rest.target, moment(rest.until), rest.reason)
        )
    if view.trouble:
        return Standing("warn", "Needs attention", view.trouble)
    if _unseen(view):
        return Standing("unset", "Not found", view.seen or f"Nothing has answered at {view.base_url} so far.")
    lacks = view.missing and f"Not all of it is set up: {view.missing}"
    if view.live.calls > view.live.failures:
        return Standing("good", "Serving", lacks)
    if view.seen_ok is False:
        return Standing("warn", "Does not answer", view.seen)
    return Standing("good", "Ready", lacks)
