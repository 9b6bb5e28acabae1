"""What each call of an execution is charged: the vendor's count, or a labelled estimate where it could not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from webapp.contracts.calls import Finish, Usage
from webapp.contracts.texts import clean
from webapp.pipeline.endings import HOUSE, PERSON, Call, Used
from webapp.routing import costs
from webapp.routing.calls import Tried
from webapp.routing.prices import Counted

_TOKENS_MAX = 100_000_000
_INPUT_SLACK, _OUTPUT_SLACK = 100_000, 10_000
"""How far beyond ten times what is likely a vendor's count of tokens is still believed."""
_NAME_CHARS = 500
_PICTURES_MAX = 100
_USD_MAX = Decimal(100)
"""No single call costs more; what says so is broken."""
_CREDITS_MAX = Decimal(1_000_000)
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "picture_input_tokens",
    "picture_output_tokens",
)


class Guess(NamedTuple):
    """What a call used as far as it can be told without the vendor: tokens sent and produced, and pictures that it will bill.

    `output_tokens` may be a function, which is asked only where the vendor did not count. `most_output_tokens` is the call's
    cap. For a call that is `drawing` the pictures are the measure, and its tokens are never estimated; for others it is the
    tokens.
    """

    input_tokens: int
    output_tokens: int | Callable[[], int]
    most_output_tokens: int
    pictures: int = 0
    drawing: bool = False


Estimate = Callable[[Tried], Guess]


def call_of(tried: Tried, estimate: Estimate, *, produced: bool, operation: str = "", house: bool = False) -> Call:
    """The call with its charge. `produced` says that something of the answer came, so that there is something to charge."""
    error = tried.error
    return Call(
        used=_used(tried, estimate, produced=produced),
        outcome=tried.outcome,
        started_at=tried.started_at,
        ended_at=tried.ended_at,
        operation=operation,
        payer=HOUSE if house else PERSON,
        error_code=error.code if error else "",
        detail=tried.detail,
        first_piece_ms=tried.first_piece_ms,
    )


def plausible(usage: Usage) -> Usage:
    """A vendor's count with impossible numbers taken out: they would spoil the books, so they count as not reported."""
    if _sound(usage):
        return usage
    counts = {name: _whole(getattr(usage, name), _TOKENS_MAX) for name in _COUNTS}
    quality: object = usage.quality
    return _within_wholes(
        Usage(
            input_tokens=counts["input_tokens"],
            output_tokens=counts["output_tokens"],
            **{name: counts[name] or 0 for name in _COUNTS[2:]},
            pictures=_whole(usage.pictures, _PICTURES_MAX) or 0,
            cost_usd=_amount(usage.cost_usd, _USD_MAX),
            credits=_amount(usage.credits, _CREDITS_MAX),
            # Compared before it is converted: a whole number may be too large for a float.
            quality=float(quality) if isinstance(quality, int | float) and 0 <= quality <= 1 else None,
            finish=usage.finish if isinstance(usage.finish, Finish) else Finish.UNKNOWN,
            model=_name(usage.model),
            vendor_request_id=_name(usage.vendor_request_id),
        )
    )


def _sound(usage: Usage) -> bool:
    """Whether `plausible` is sure to change nothing: so it is with nearly every count, and seen without making it anew."""
    read, written = usage.input_tokens, usage.output_tokens
    return (
        type(usage) is Usage
        and type(read) is int
        and 0 <= read <= _TOKENS_MAX
        and type(written) is int
        and 0 <= written <= _TOKENS_MAX
        and type(usage.cached_tokens) is int
        and 0 <= usage.cached_tokens <= read
        and type(usage.cache_write_tokens) is int
        and 0 <= usage.cache_write_tokens <= read
        and type(usage.picture_input_tokens) is int
        and 0 <= usage.picture_input_tokens <= read
        and type(usage.reasoning_tokens) is int
        and 0 <= usage.reasoning_tokens <= written
        and type(usage.picture_output_tokens) is int
        and 0 <= usage.picture_output_tokens <= written
        and type(usage.pictures) is int
        and 0 <= usage.pictures <= _PICTURES_MAX
        and usage.cost_usd is None
        and usage.credits is None
        and (usage.quality is None or (type(usage.quality) is float and 0 <= usage.quality <= 1))
        and type(usage.finish) is Finish
        and type(usage.model) is str
        and len(usage.model) <= _NAME_CHARS
        and usage.model.isprintable()
        and type(usage.vendor_request_id) is str
        and len(usage.vendor_request_id) <= _NAME_CHARS
        and usage.vendor_request_id.isprintable()
    )


def _within_wholes(usage: Usage) -> Usage:
    """The same with parts that fit into their wholes."""
    read, written = usage.input_tokens or 0, usage.output_tokens or 0
    if (
        usage.cached_tokens <= read
        and usage.cache_write_tokens <= read
        and usage.picture_input_tokens <= read
        and usage.reasoning_tokens <= written
        and usage.picture_output_tokens <= written
    ):
        return usage
    return replace(
        usage,
        cached_tokens=min(usage.cached_tokens, read),
        cache_write_tokens=min(usage.cache_write_tokens, read),
        picture_input_tokens=min(usage.picture_input_tokens, read),
        reasoning_tokens=min(usage.reasoning_tokens, written),
        picture_output_tokens=min(usage.picture_output_tokens, written),
    )


def _believed(tried: Tried, guess: Guess, *, produced: bool) -> Usage:
    """What the vendor told of a call, without what cannot be of this call: that counts as not reported."""
    usage: object = tried.usage  # a plugin may put anything there
    if not isinstance(usage, Usage):
        return Usage()
    told = plausible(usage)
    read, written = told.input_tokens, told.output_tokens
    if read is not None and read > 10 * guess.input_tokens + _INPUT_SLACK:
        read = None
    if written is not None and written > 10 * guess.most_output_tokens + _OUTPUT_SLACK:
        written = None
    # Nought for a prompt that was answered, and for a text that came, are no counts either.
    if produced and not guess.drawing:
        read, written = read or None, written or None
    elif read == 0 and written:
        read = None
    if read != told.input_tokens or written != told.output_tokens:
        told = replace(told, input_tokens=read, output_tokens=written)
    return _within_wholes(told)


def _used(tried: Tried, estimate: Estimate, *, produced: bool) -> Used:
    target, guess = tried.target, estimate(tried)
    usage = _believed(tried, guess, produced=produced)
    told = bool(usage.input_tokens or usage.output_tokens or usage.pictures or usage.credits or usage.cost_usd)
    if not (told or produced or guess.pictures):
        return Used(target.provider.name, target.model, vendor_request_id=usage.vendor_request_id)
    by_token = usage.input_tokens is not None and usage.output_tokens is not None
    if guess.drawing:
        measured = bool(usage.pictures) or usage.credits is not None or usage.cost_usd is not None
        measured = measured or (by_token and not guess.pictures)
    else:
        measured = by_token
    read, written = usage.input_tokens, usage.output_tokens
    if read is None:
        read = 0 if guess.drawing else guess.input_tokens
    if written is None:
        # What would be estimated where nothing was produced is another call's text.
        written = _said(guess) if produced else 0
    # What a vendor had counted when its answer broke off need not be what it bills.
    broken_off = tried.error is not None and produced and not (usage.pictures or usage.cost_usd is not None)
    counted = Counted(
        input_tokens=read,
        output_tokens=written,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        picture_input_tokens=usage.picture_input_tokens,
        picture_output_tokens=usage.picture_output_tokens,
        pictures=usage.pictures or guess.pictures,
        credits=usage.credits,
    )
    price = costs.charge(target, counted, usage)
    return Used(
        provider=target.provider.name,
        model=usage.model or target.model,
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cached_tokens=counted.cached_tokens,
        cache_write_tokens=counted.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        pictures=counted.pictures,
        cost_microusd=price.cost_microusd,
        estimated=not measured or broken_off,
        price_source=price.source,
        price_date=price.date,
        vendor_request_id=usage.vendor_request_id,
    )


def _said(guess: Guess) -> int:
    return guess.output_tokens if isinstance(guess.output_tokens, int) else guess.output_tokens()


def _whole(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _amount(value: object, most: Decimal) -> Decimal | None:
    return value if isinstance(value, Decimal) and value.is_finite() and 0 <= value <= most else None


def _name(value: object) -> str:
    return clean(value[:_NAME_CHARS]) if isinstance(value, str) else ""
