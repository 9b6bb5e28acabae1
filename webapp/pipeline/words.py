"""What people are told, in one place: short enough for a text message, clear about what happened and what to do."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from webapp.contracts.limits import Dimension, Limit, Window
from webapp.contracts.money import format_microusd
from webapp.quota.holds import Counter, Need
from webapp.quota.windows import bounds

HELP = (
    "Text a question and an assistant answers. Reply STOP to get no more messages, START to get them again, USAGE to see what "
    "is left of your plan. Message and data rates may apply."
)
WELCOME_BACK = "You will get answers again. Reply STOP at any time to end them."
TEXT_ONLY = "Only text can be read here so far. Please send your question as a text message."
LIMITS_UNKNOWN = "This cannot be accepted just now. Please try again in a few minutes."
OVER_ALLOCATION = "The models that are ready cost more than this request may. Allow it more credits, or ask for less."
TOO_DEAR = "What is left of your plan does not pay for the model that answers now. Please try again later."
NOT_INVITED = "This number answers invited people only. Ask its operator to add you."

_FAILED = {
    "provider_timeout": "The assistant took too long to answer. Please try again in a few minutes.",
    "provider_rate_limited": "The assistant is very busy. Please try again in a few minutes.",
    "content_refused": "The assistant's vendor declined to answer this. Please put it another way.",
    "context_too_long": "This is more text than the model can read. Please send less of it.",
    "limit_reached": TOO_DEAR,
    "no_vision": "No model here can look at pictures. Please ask without them.",
    "provider_rejected": "No model that is ready can do this. Please try it another way, or ask the operator.",
    "picture_not_stored": "Your picture was made but could not be kept. Please tell the operator.",
    "expired": "Your request waited for too long and was given up. Please try again.",
    "worker_lost": "Your request was interrupted several times and was given up. Please try again.",
}
_FAILED_OTHERWISE = "The assistant could not answer just now. Please try again in a few minutes."


def failed(code: str) -> str:
    """A polite text for a request that failed; the truth is in the error log."""
    return _FAILED.get(code, _FAILED_OTHERWISE)


def pictures_ready(count: int, public_url: str) -> str:
    """What somebody is told by a channel that carries no pictures."""
    what = "Your picture is" if count == 1 else f"Your {count} pictures are"
    return f"{what} ready. Sign in to see {'it' if count == 1 else 'them'}" + (f": {public_url}" if public_url else ".")


def limit_reached(need: Need, operation: str = "chat") -> str:
    """Which limit refused a request, and when it resets, in the organization's time zone."""
    limit = need.limit
    if limit.window is Window.REQUEST:
        return f"This may cost more than the {amount(limit.dimension, limit.maximum)} {limit.label} that one request may."
    whose, label = _whose(limit)
    if limit.maximum == 0:
        return f"{whose.capitalize()} limit of {label} is 0 in this {limit.window.value}."
    when = _moment(need.resets_at, need.time_zone)
    if limit.maximum == 1:
        label = label.removesuffix("s")
    most = amount(limit.dimension, limit.maximum)
    what = f"{most if limit.dimension is Dimension.COST else f'{most} {label}'} of this {limit.window.value}"
    if need.amount > limit.maximum:
        if operation != "chat":
            return f"This alone may need more than {whose} {what}."
        return f"This message alone needs more than {whose} {what}. Send a shorter one."
    new = f"You get new ones on {when}." if whose == _YOUR else f"There are new ones on {when}."
    if limit.dimension is not Dimension.REQUESTS:
        return f"There is not enough left of {whose} {what} for this message. {new}"
    if whose != _YOUR:
        return f"{whose.capitalize()} {what} {'is' if limit.maximum == 1 else 'are'} used. {new}"
    return f"You have used {f'your {what}' if limit.maximum == 1 else f'all {what}'}. {new}"


_YOUR = "your"


def _whose(limit: Limit) -> tuple[str, str]:
    """Whose limit it is, and its label without saying so again."""
    for kind, mark, whose in (
        ("organization:", "organization's ", "your organization's"),
        ("token:", "token's ", "this token's"),
    ):
        if limit.subject.startswith(kind):
            return whose, limit.label.removeprefix(mark)
    return _YOUR, limit.label


_LABELS = {"cost_microusd": "spending", "content": "content generations", "sentiment": "sentiment analyses"}


def counter_label(name: str, dimension: Dimension) -> str:
    """What people are told that a counter counts."""
    if name.startswith("limit:"):
        return "spending" if dimension is Dimension.COST else dimension.value
    return _LABELS.get(name, name)


def amount(dimension: Dimension, number: int) -> str:
    """A number of a dimension, as people read it."""
    if dimension is Dimension.COST:
        return format_microusd(number)
    if dimension is Dimension.CREDITS:
        return f"{number / 1000:,.10g}"
    return f"{number:,}"


def limit_warning(counter: Counter, time_zone: str) -> str:
    """How much of a limit is used, for whoever it limits."""
    resets_at = bounds(counter.window, counter.starts_at, time_zone)[1]
    label = counter_label(counter.name, counter.dimension)
    used, most = amount(counter.dimension, counter.used), amount(counter.dimension, counter.maximum)
    when = _moment(resets_at, time_zone)
    if counter.dimension is Dimension.COST:
        return f"{used} of the {most} to spend in this {counter.window.value} are used. It starts again on {when}."
    return f"{used} of {most} {label} of this {counter.window.value} are used. There are new ones on {when}."


def limit_full(need: Need) -> str:
    """That nothing is left of a limit, for somebody else than whoever it limits."""
    limit = need.limit
    label = "to spend" if limit.dimension is Dimension.COST else _whose(limit)[1]
    what = f"{amount(limit.dimension, limit.maximum)} {label} of this {limit.window.value}"
    return (
        f"All of the {what} are used, or held for what runs now. It starts again on {_moment(need.resets_at, need.time_zone)}."
    )


def manager_warning(organization: str, who: str, percent: int, text: str, public_url: str) -> tuple[str, str]:
    """Subject and body of the message to a manager. `who` is the person whose limit it is, '' for the organization's own."""
    whose = f"{who} of {organization}" if who else organization
    title = f"{whose}: {'a limit is used up' if percent >= 100 else f'{percent} % of a limit are used'}"
    link = f"\n\nUsage and limits: {public_url.rstrip('/')}/organization/usage" if public_url else ""
    return title[:250], f"{whose}:\n\n{text}{link}\n"


def _moment(moment: datetime, time_zone: str) -> str:
    local = moment.astimezone(ZoneInfo(time_zone))
    return f"{local:%B} {local.day}, {local:%H:%M} ({time_zone})"
