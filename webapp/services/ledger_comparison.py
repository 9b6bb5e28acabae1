"""Our ledger beside a vendor's own count, by UTC day and model: where they differ, and why that may be.

Sums are taken by the database and the export is read row by row: what is held in memory grows with days and models alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from webapp.contracts.errors import BadInput
from webapp.contracts.money import MICROUSD
from webapp.extensions import now
from webapp.services import ledger_sums
from webapp.services.usage_exports import Export, UsageRow

ALL_MODELS = "(all)"
"""Stands for the model where the export does not say which."""

GROUPS_MAX = 200_000
"""Days times models; a file with more is no usage export."""

JUDGED = ("input_tokens", "output_tokens", "cost_microusd")
"""What has to agree. Requests and cached tokens are shown: calls that failed are counted in different ways."""

ROUNDED_MICROUSD = 5_000
"""Costs apart by no more agree, unless the tolerance is 0: some exports round to cents."""

_DATED = re.compile(r"[-@](?:20\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])|00\d)\Z")
_PREVIEW = re.compile(r"-preview(?:-\d{2}-(?:\d{4}|\d{2}))?\Z")


@dataclass(slots=True)
class Sums:
    """Tokens, requests and cost of one side. Cost is whole micro-dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0
    cost_microusd: int = 0

    def add(self, other: Sums) -> None:
        """Count `other` in."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @classmethod
    def of(cls, many: Iterable[Sums]) -> Sums:
        """All of them together."""
        total = cls()
        for one in many:
            total.add(one)
        return total


@dataclass(frozen=True, slots=True)
class Line:
    """A day and model on both sides; None where a side has nothing of it."""

    day: date
    model: str
    ours: Sums | None
    theirs: Sums | None
    differs: tuple[str, ...] = ()
    """What differs beyond the tolerance: names out of `JUDGED`."""
    shifted: bool = False
    """True where the next or the previous day makes up for it: requests around midnight."""

    def difference(self, name: str) -> int:
        """Ours less theirs."""
        apart: int = getattr(self.ours or Sums(), name) - getattr(self.theirs or Sums(), name)
        return apart


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came out. `first` and `last` are the UTC days that were compared, both included."""

    provider: str
    first: date
    last: date
    measures: frozenset[str]
    tolerance_percent: float
    lines: tuple[Line, ...]
    ours: Sums
    theirs: Sums
    total_differs: tuple[str, ...]
    reasons: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        """Whether everything that both sides tell is within the tolerance."""
        return not self.total_differs and not any(line.differs and not line.shifted for line in self.lines)

    @property
    def judged(self) -> tuple[str, ...]:
        """What could be compared, because the export tells it."""
        return judged_of(self.measures)


def judged_of(measures: frozenset[str]) -> tuple[str, ...]:
    """Those of `JUDGED` that an export with these measures tells."""
    return tuple(name for name in JUDGED if name.partition("_")[0] in measures)


def compare(
    export: Export, provider: str, *, first: date | None = None, last: date | None = None, tolerance_percent: float = 1.0
) -> Comparison:
    """Compare an export with the ledger entries of a provider. Without `first` and `last`, the export's own days count.

    `BadInput` for a file that cannot be read, or that has nothing of those days.
    """
    if first is not None and last is not None and last < first:
        raise BadInput("to", "The last day is before the first.")
    theirs = _theirs(export, first, last)
    if not theirs and (first is None or last is None):
        raise BadInput("file", "The export has nothing of these days.")
    days = [day for day, _ in theirs]
    first, last = first or min(days), last or max(days)
    entries = ledger_sums.by_day_and_model(provider, _midnight(first), _midnight(last + timedelta(days=1)))
    by_model = export.has_models and any(model != ALL_MODELS for _, model in theirs)
    ours = _ours(entries, by_model=by_model)
    judged = judged_of(export.measures)
    within = _within(tolerance_percent)
    lines = tuple(_lines(ours, theirs, judged, within))
    total, their_total = Sums.of(ours.values()), Sums.of(theirs.values())
    found = Comparison(
        provider=provider,
        first=first,
        last=last,
        measures=export.measures,
        tolerance_percent=tolerance_percent,
        lines=lines,
        ours=total,
        theirs=their_total,
        total_differs=_differs(total, their_total, judged, within),
    )
    return replace(found, reasons=tuple(_reasons(found, entries)))


def plain_name(model: str) -> str:
    """A model's name without vendor, date and release number: `models/gpt-4.1-mini-2025-04-14` is `gpt-4.1-mini`."""
    name = model.strip().lower().replace(" ", "-")
    for prefix in ("models/", "publishers/google/models/"):
        name = name.removeprefix(prefix)
    if name.startswith("gemini"):
        name = _PREVIEW.sub("", name)  # Google's bills leave it out
    return _DATED.sub("", name)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)


def _theirs(export: Export, first: date | None, last: date | None) -> dict[tuple[date, str], Sums]:
    found: dict[tuple[date, str], Sums] = {}
    costs: dict[tuple[date, str], Decimal] = {}
    for row in export.rows:
        if (first is not None and row.day < first) or (last is not None and row.day > last):
            continue
        key = row.day, plain_name(row.model) or ALL_MODELS
        if key not in found and len(found) >= GROUPS_MAX:
            raise BadInput("file", f"Line {row.line}: more days and models than a usage export has.")
        found.setdefault(key, Sums()).add(_of_row(row))
        # Rounded once a group, not once a row: exports have millionths of cents.
        costs[key] = costs.get(key, Decimal(0)) + row.cost_usd
    for key, usd in costs.items():
        found[key].cost_microusd = round(usd * MICROUSD)
    return found


def _of_row(row: UsageRow) -> Sums:
    return Sums(row.input_tokens, row.output_tokens, row.cached_tokens, row.requests)


def _ours(entries: Iterable[ledger_sums.Entries], *, by_model: bool) -> dict[tuple[date, str], Sums]:
    found: dict[tuple[date, str], Sums] = {}
    for entry in entries:
        key = entry.day, plain_name(entry.model) if by_model else ALL_MODELS
        sums = Sums(entry.input_tokens, entry.output_tokens, entry.cached_tokens, entry.requests, entry.cost_microusd)
        found.setdefault(key, Sums()).add(sums)
    return found


def _within(tolerance_percent: float) -> Callable[[str, int, int], bool]:
    share = Decimal(str(tolerance_percent)) / 100

    def within(name: str, ours: int, theirs: int) -> bool:
        apart = abs(ours - theirs)
        if name == "cost_microusd" and share and apart <= ROUNDED_MICROUSD:
            return True
        return apart <= share * max(abs(ours), abs(theirs))

    return within


def _differs(
    ours: Sums | None, theirs: Sums | None, judged: tuple[str, ...], within: Callable[[str, int, int], bool]
) -> tuple[str, ...]:
    left, right = ours or Sums(), theirs or Sums()
    return tuple(name for name in judged if not within(name, getattr(left, name), getattr(right, name)))


def _lines(
    ours: dict[tuple[date, str], Sums],
    theirs: dict[tuple[date, str], Sums],
    judged: tuple[str, ...],
    within: Callable[[str, int, int], bool],
) -> Iterator[Line]:
    found = {
        key: Line(*key, ours.get(key), theirs.get(key), _differs(ours.get(key), theirs.get(key), judged, within))
        for key in ours.keys() | theirs.keys()
    }
    shifted: set[tuple[date, str]] = set()
    for key in sorted(key for key, line in found.items() if line.differs):
        following = key[0] + timedelta(days=1), key[1]
        if key in shifted or following not in found or not found[following].differs:
            continue
        pair = [found[key], found[following]]
        sides = Sums.of(line.ours for line in pair if line.ours), Sums.of(line.theirs for line in pair if line.theirs)
        if not _differs(*sides, judged, within):
            shifted |= {key, following}
    for key in sorted(found):
        line = found[key]
        yield Line(line.day, line.model, line.ours, line.theirs, line.differs, shifted=key in shifted)


def _reasons(found: Comparison, entries: Sequence[ledger_sums.Entries]) -> Iterator[str]:
    """What is worth checking, the likeliest first. Nothing where everything is the same."""
    apart = [line for line in found.lines if line.differs]
    if not apart and not found.total_differs:
        return
    yield from _one_sided(found, apart)
    if any(line.shifted for line in apart):
        yield "Neighbouring days make up for each other: requests around midnight, or the vendor's days begin at another hour."
    if found.provider in {"google", "gemini"} and apart:
        yield "Google bills by days of Pacific time, not UTC: compare whole months."
    if found.last >= now().date() - timedelta(days=1):
        yield "The last day is today or yesterday: vendors' exports lag behind by hours."
    yield from _about_our_entries(entries)
    both = [line for line in apart if line.ours is not None and line.theirs is not None]
    tokens = {"input_tokens", "output_tokens"}
    if any(line.differs == ("cost_microusd",) for line in both) and tokens & set(found.judged):
        yield (
            "Where the tokens agree and the cost does not: look at the operator's own prices, the date of the price table, and "
            "what the vendor has agreed with you (discounts, batch or priority processing, data residency, taxes)."
        )
    if "cached" in found.measures and any(line.difference("cached_tokens") for line in both):
        yield "The cached tokens differ: they are cheaper, so the cost differs with them."
    if "requests" in found.measures and found.theirs.requests > found.ours.requests:
        yield "The vendor counts more requests than we answered: calls that were tried again, failed or were cut off."
    if any(line.theirs is not None and line.theirs.cost_microusd < 0 for line in apart):
        yield "The vendor has credits or refunds in its costs."


def _one_sided(found: Comparison, apart: Sequence[Line]) -> Iterator[str]:
    only_theirs = sorted({line.model for line in apart if line.ours is None and not line.shifted})
    only_ours = sorted({line.model for line in apart if line.theirs is None and not line.shifted})
    if only_theirs:
        yield (
            f"Only the vendor has {_some(only_theirs)}: something else uses the same account or key, or we know the model by "
            "another name."
        )
    if only_ours:
        yield (
            f"Only our ledger has {_some(only_ours)}: the export leaves out a project or key, its days end earlier, or the "
            "vendor knows the model by another name."
        )
    if not found.lines or all(line.ours is None for line in found.lines):
        names = ", ".join(ledger_sums.providers()) or "nobody"
        yield f"The ledger has nothing of the provider {found.provider!r} on these days: is that its name here? It has {names}."


def _about_our_entries(entries: Sequence[ledger_sums.Entries]) -> Iterator[str]:
    total, estimated = sum(entry.entries for entry in entries), sum(entry.estimated for entry in entries)
    if estimated:
        yield f"{estimated} of our {total} entries are estimates: the vendor reported no tokens (streams that were cut)."
    sources = {entry.price_source for entry in entries}
    if "ceiling" in sources:
        yield "Some of our costs are the operator's ceiling, because the price was not known: set a price for those models."
    if "override" in sources:
        yield "Some of our costs are the operator's own prices: are they still what the vendor charges?"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
