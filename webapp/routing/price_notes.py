"""Prices that the table lacks or has wrong, each with where and when it was read. All of them move: look again now and then.

A note's token prices go before the table's for its models alone; a test asks whether the table has caught up, and such a note
can go. Per-picture prices serve where a vendor told no tokens.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache

from webapp.contracts.hours import Hours
from webapp.routing.price_table import TokenRates

_DATED = re.compile(r"[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6})\Z")


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of some models of one vendor. Amounts are dollars, per million tokens or per picture."""

    vendor: str
    """The vendor's id, as providers have it in `price_as`."""
    names: tuple[str, ...]
    source: str
    date: str
    """The ISO day on which the price was read there."""
    rates: TokenRates | None = None
    since: dt.date | None = None
    """The UTC day from which `rates` hold; before it the table's count."""
    peak_rates: TokenRates | None = None
    peak_hours: Hours = field(default_factory=Hours)
    picture_usd: Decimal | None = None
    """A picture of the usual size at the dearest quality."""
    picture_most_usd: Decimal | None = None
    """A picture of the largest size, where that costs more."""
    picture_credits: Decimal | None = None
    """A picture in the vendor's own credits."""
    credit_usd: Decimal | None = None
    by_name_alone: bool = True
    """Whether the names are enough where the vendor is not known; not for words such as `core`."""

    @property
    def moves(self) -> bool:
        """Whether the token prices change with date or time of day; they do on whole minutes."""
        return self.since is not None or self.peak_rates is not None

    def rates_at(self, at: dt.datetime) -> TokenRates | None:
        """The token prices in force at `at` (aware), None if the table's count."""
        if self.rates is None or (self.since is not None and at.astimezone(dt.UTC).date() < self.since):
            return None
        return self.peak_rates if self.peak_rates is not None and self.peak_hours.hold(at) else self.rates

    def price_of_picture(self, credit_usd: Decimal | None = None) -> Decimal | None:
        """Dollars for a picture, by what a credit costs (default: as noted) where the vendor sells credits."""
        credit_usd = self.credit_usd if credit_usd is None else credit_usd
        if self.picture_credits is not None and credit_usd is not None:
            return self.picture_credits * credit_usd
        return self.picture_usd


def _plain(*usd: str) -> TokenRates:
    """Input, output, cached input."""
    return TokenRates.plain(*(Decimal(amount) for amount in usd))


# The table knows hours of the day but not of the week. The page excepts Chinese public holidays too, but no list of them is at
# hand: on those the dearer price is charged.
_DEEPSEEK_PEAK = Hours.parse("Mon-Fri 01:00-04:00, Mon-Fri 06:00-10:00")
_DEEPSEEK = "DeepSeek's price page: weekends are off-peak"
_STABILITY = "Stability's credit prices, guide of June 2026"
_CREDIT = Decimal("0.01")
_GEMINI = "Google's price per picture of 1K"
_OPENAI = "OpenAI's image prices, high quality at 1536x1024"

NOTES = (
    Note(
        "deepseek",
        ("deepseek-flash", "deepseek-v4-flash", "deepseek-v4.1-flash"),
        _DEEPSEEK,
        "2026-10-31",
        rates=_plain("0.15", "0.60", "0.003"),
        since=dt.date(2026, 9, 10),
        peak_rates=_plain("0.30", "1.20", "0.006"),
        peak_hours=_DEEPSEEK_PEAK,
    ),
    Note(
        "deepseek",
        ("deepseek-v4-pro",),
        _DEEPSEEK,
        "2026-10-31",
        rates=_plain("0.66", "1.98", "0.022"),
        since=dt.date(2026, 8, 17),
        peak_rates=_plain("1.32", "3.96", "0.044"),
        peak_hours=_DEEPSEEK_PEAK,
    ),
    # The table takes the name for Mistral Large 2 of 2024.
    Note(
        "mistral",
        ("mistral-large-latest",),
        "Mistral's prices: the name means Mistral Large 3",
        "2026-11-12",
        rates=_plain("0.50", "1.50", "0.05"),
    ),
    *(
        Note(
            "stability",
            names,
            _STABILITY,
            "2026-06-30",
            picture_credits=Decimal(credits),
            credit_usd=_CREDIT,
            by_name_alone=names[0].startswith("sd3"),
        )
        for names, credits in (
            (("ultra", "stable-image-ultra"), "8"),
            (("core", "stable-image-core"), "3"),
            (("sd3.5-large", "sd3"), "6.5"),
            (("sd3.5-large-turbo",), "4"),
            (("sd3.5-medium",), "3.5"),
        )
    ),
    *(
        Note("google", names, _GEMINI, "2026-11-12", picture_usd=Decimal(usual), picture_most_usd=Decimal(most))
        for names, usual, most in (
            (("gemini-3.1-flash-lite-image", "gemini-3.1-flash-lite-image-preview"), "0.034", "0.034"),
            (("gemini-2.5-flash-image", "gemini-2.5-flash-image-preview"), "0.039", "0.039"),
            # 0.045 is also told: that is the picture of half that width.
            (("gemini-3.1-flash-image", "gemini-3.1-flash-image-preview"), "0.067", "0.151"),
            (("gemini-3-pro-image", "gemini-3-pro-image-preview"), "0.134", "0.24"),
        )
    ),
    *(
        Note("openai", names, _OPENAI, "2026-11-12", picture_usd=Decimal(usual), picture_most_usd=Decimal(most))
        for names, usual, most in (
            # Sizes up to 3840x2160 cost more; no figure was found, so the most is a guess on the safe side.
            (("gpt-image-2", "gpt-image-2.5-sunburst", "gpt-image-2.5-flare"), "0.20", "0.50"),
            (("gpt-image-1.5", "chatgpt-image-latest"), "0.20", "0.20"),
            (("gpt-image-1",), "0.25", "0.25"),
            (("gpt-image-1-mini",), "0.052", "0.052"),
        )
    ),
)

_BY_VENDOR = {(note.vendor, name): note for note in NOTES for name in note.names}
_BY_NAME = {name: note for note in NOTES if note.by_name_alone for name in note.names}


@lru_cache(maxsize=4096)
def find(vendor: str, model: str) -> Note | None:
    """What is noted of a model, dated names included; None if nothing is. `vendor` '' goes by the name alone."""
    name = model.strip().lower()
    for candidate in (name, _DATED.sub("", name)):
        found = _BY_VENDOR.get((vendor, candidate)) if vendor else _BY_NAME.get(candidate)
        if found is not None:
            return found
    return None
