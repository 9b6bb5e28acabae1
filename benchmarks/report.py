"""Medians, ratios and bars, and how they are printed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


def median(values: Sequence[float]) -> float:
    """The middle value; what a noisy neighbour does to one round does not move it."""
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0–1) of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_ratio(ours: Sequence[float], floors: Sequence[float]) -> float:
    """The median of ours/floor round by round: both of a pair were measured within seconds, so drift cancels out."""
    return statistics.median(a / b for a, b in zip(ours, floors, strict=True))


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise about one figure, and whether this run kept it."""

    name: str
    found: str
    promise: str
    met: bool


@dataclass(slots=True)
class Report:
    """Prints tables as they come and keeps the bars for the end."""

    bars: list[Bar] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Begin a benchmark."""
        print(f"\n== {text} ==", flush=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        print(text, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """The first column is words, the others are figures."""
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for row in (head, *rows):
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            print("  " + "  ".join(cells).rstrip())
        print(flush=True)

    def at_least(self, name: str, found: float, wanted: float, unit: str = "") -> None:
        """A bar that is met from `wanted` on."""
        self._bar(Bar(name, _figure(found, unit), f">= {_figure(wanted, unit)}", found >= wanted))

    def below(self, name: str, found: float, wanted: float, unit: str = "") -> None:
        """A bar that is met under `wanted`."""
        self._bar(Bar(name, _figure(found, unit), f"< {_figure(wanted, unit)}", found < wanted))

    def exactly(self, name: str, found: float, wanted: float, unit: str = "") -> None:
        """A bar that is met by `wanted` alone."""
        self._bar(Bar(name, _figure(found, unit), f"= {_figure(wanted, unit)}", found == wanted))

    def _bar(self, bar: Bar) -> None:
        self.bars.append(bar)
        print(f"  {'met   ' if bar.met else 'MISSED'}  {bar.name}: {bar.found} (bar: {bar.promise})", flush=True)

    def summary(self) -> bool:
        """Print all bars once more; True if all are met."""
        missed = [bar for bar in self.bars if not bar.met]
        if not self.bars:
            return True
        print(f"\n== {len(self.bars) - len(missed)} of {len(self.bars)} bars met ==")
        for bar in self.bars:
            print(f"  {'met   ' if bar.met else 'MISSED'}  {bar.name}: {bar.found} (bar: {bar.promise})")
        return not missed


def _figure(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.0f} %"
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()
