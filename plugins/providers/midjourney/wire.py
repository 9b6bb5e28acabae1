"""The proxies' format: from a call to a submission, from their answers to tasks, and what their failures mean."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from plugins.providers.midjourney import actions
from webapp.plugin import (
    ImageCall,
    MalformedAnswer,
    OutOfCredit,
    Picture,
    ProviderError,
    RateLimited,
    RefusedByPolicy,
    Rejected,
    TimedOut,
    Unavailable,
    about_policy,
)

PICTURE_BYTES = 20 * 1024 * 1024
_SEEDS = 2**32
# What decides about speed or number of pictures is the operator's choice, who pays for it. iOS writes a long dash for two.
_COSTLY = re.compile(r"(?:--|—)(?:fast|turbo|relax|(?:repeat|r)(?:\s+\S+)?)(?=\s|$)", re.I)
_RATIO_MAX = Fraction(4)
_RATIO_PART_MAX = 64
_TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PERCENT = re.compile(r"\s*(\d{1,4})(?:\.\d+)?\s*%?\s*", re.ASCII)

# In English, and in the words of the proxies' own messages: forbidden, sensitive, violation.
_BANNED = re.compile(r"banned|forbidden|sensitive|inappropriate|community (standards|guidelines)|违规|敏感|违禁", re.I)
_LATE = re.compile(r"time[d -]*out|超时", re.I)
_NO_TIME_LEFT = re.compile(r"(fast|gpu) (hours|time)|run out|subscription|credits? exhausted|quota", re.I)
_BAD_PARAMETER = re.compile(r"invalid (parameter|link|aspect)|unrecogni[sz]ed|could not (parse|validate)|参数", re.I)
_NO_ACCOUNT = re.compile(r"account|instance|账号|实例", re.I)


# -- submissions -----------------------------------------------------------------------------------------------------
def submission(call: ImageCall, label: str) -> tuple[str, dict[str, object]]:
    """The path and body that begin the work. `state` comes back with the task, so that logs can be joined."""
    if call.action is not None:
        path, body = actions.submission(call.action, label)
        return path, body | {"state": call.request_id}
    found: dict[str, object] = {"prompt": prompt(call), "state": call.request_id}
    if call.source is not None:
        data = base64.b64encode(call.source.data).decode()
        found["base64Array"] = [f"data:{call.source.media_type};base64,{data}"]
    return "/mj/submit/imagine", found


def prompt(call: ImageCall) -> str:
    """The prompt on one line, with shape, seed and what is not wanted as Midjourney's own parameters.

    What a person wrote as a parameter stays and wins, but for those that change what the picture costs.
    """
    text = _one_line(_COSTLY.sub(" ", call.prompt))
    raw = call.style.strip().lower() == "raw"
    if call.style and not raw:
        text += f", {_plain(call.style)} style"
    parameters = {
        ("ar", "aspect"): _ratio(call.width, call.height),
        ("seed",): "" if call.seed is None else str(call.seed % _SEEDS),
        ("no",): _plain(call.negative_prompt),
        ("style",): "raw" if raw else "",
    }
    for names, value in parameters.items():
        if value and not re.search(rf"(?:--|—)(?:{'|'.join(names)})(?=\s|$)", text, re.I):
            text += f" --{names[0]} {value}"
    return text.encode("utf-8", "replace").decode()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Words that cannot be read as parameters."""
    return _one_line(re.sub(r"-{2,}|—", " ", text))


def _ratio(width: int, height: int) -> str:
    """The shape as `3:2`, '' for a square."""
    shape = min(max(Fraction(max(1, width), max(1, height)), 1 / _RATIO_MAX), _RATIO_MAX)
    if max(shape.numerator, shape.denominator) > _RATIO_PART_MAX:
        shape = shape.limit_denominator(_RATIO_PART_MAX)
    return "" if shape == 1 else f"{shape.numerator}:{shape.denominator}"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task at the proxy. `fresh` is False where it was there before: then it is not ours to cancel."""

    task_id: str
    fresh: bool


def said(answer: Mapping[str, Any]) -> str:
    """What an answer to a submission says, for operators: its code, its words, and the word that is banned."""
    properties = answer.get("properties")
    banned = _text(properties.get("bannedWord")) if isinstance(properties, dict) else ""
    words = [f"code {_code(answer.get('code'))}", _text(answer.get("description")), banned]
    return ": ".join(word for word in words if word)


def submitted(answer: Mapping[str, Any], label: str, detail: str) -> Submitted:
    """The task that a submission began. Raises the `ProviderError` that the answer's code stands for: it is always
    HTTP 200. `detail` is what operators may read of the answer."""
    code = _code(answer.get("code"))
    if code in (1, 21, 22):
        task_id = answer.get("result")
        task_id = str(task_id) if isinstance(task_id, int) and not isinstance(task_id, bool) else task_id
        if not isinstance(task_id, str) or not _TASK_ID.fullmatch(task_id):
            raise MalformedAnswer(f"{label} took the task, but tells no id for it.", detail=detail)
        return Submitted(task_id, fresh=code != 21)
    raise _refusal(code, _text(answer.get("description")), label, detail)


def _refusal(code: int | None, words: str, label: str, detail: str) -> ProviderError:
    if code == 23:
        return RateLimited(f"{label}'s queue is full.", detail=detail)
    if code == 24 or _about_content(words):
        return RefusedByPolicy(f"{label}'s content policy refuses this.", detail=detail)
    if code == 3 and not _NO_ACCOUNT.search(words):
        return Rejected(f"{label} does not know this picture any more.", detail=detail)
    if code == 4:
        return Rejected(f"{label} does not accept the call.", detail=detail)
    if code is None:
        return MalformedAnswer(f"What {label} sent is not a valid answer.", detail=detail)
    return Unavailable(f"{label} could not take the task (code {code}).", detail=detail)


def _code(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 5:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# -- tasks -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Task:
    """How far a task is. `buttons` is None where the proxy does not know them."""

    status: str = ""
    percent: int = 0
    image_url: str = ""
    fail_reason: str = ""
    action: str = ""
    buttons: tuple[object, ...] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it by itself."""
        return self.status in ("SUCCESS", "FAILURE", "CANCEL", "MODAL")


def task(answer: Mapping[str, Any]) -> Task:
    """From the proxy's JSON, whatever is missing or odd in it."""
    buttons = answer.get("buttons")
    return Task(
        status=_text(answer.get("status")).upper(),
        percent=percent(answer.get("progress")),
        image_url=_text(answer.get("imageUrl")),
        fail_reason=_text(answer.get("failReason")),
        action=_text(answer.get("action")).upper(),
        buttons=tuple(buttons) if isinstance(buttons, list) else None,
    )


def percent(value: object) -> int:
    """From `45%`, or a number; 0 where it says nothing."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        value = int(found[1])
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:  # NaN is not
        return 0
    return int(min(value, 100))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def failure(ended: Task, label: str, detail: str) -> ProviderError:
    """The error for a task that ended without a picture."""
    reason = ended.fail_reason
    if ended.status == "CANCEL":
        return Rejected(f"The task was cancelled at {label}.", detail=detail)
    if ended.status == "MODAL":
        cure = "switch remix mode off in its settings"
        return Rejected(f"{label} asks for a further input, which cannot be given from here: {cure}.", detail=detail)
    if _about_content(reason):
        return RefusedByPolicy(f"{label}'s content policy refuses this.", detail=detail)
    if _LATE.search(reason):
        return TimedOut(f"{label} did not finish the picture in time.", detail=detail)
    if _NO_TIME_LEFT.search(reason):
        return OutOfCredit(f"The account behind {label} has no time left to draw.", detail=detail)
    if _BAD_PARAMETER.search(reason):
        return Rejected(f"{label} does not accept the prompt's parameters.", detail=detail)
    return Unavailable(f"{label} could not make the picture.", detail=detail)


def _about_content(words: str) -> bool:
    return bool(_BANNED.search(words)) or about_policy(words)


# -- pictures --------------------------------------------------------------------------------------------------------
def picture_from(data: bytes) -> Picture:
    """The picture that the bytes are, by their first ones. `ValueError` where they are none."""
    if len(data) > PICTURE_BYTES:
        raise ValueError("the picture is larger than 20 MB")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Picture("image/png", data)
    if data.startswith(b"\xff\xd8\xff"):
        return Picture("image/jpeg", data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Picture("image/gif", data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Picture("image/webp", data)
    raise ValueError("what came is no picture")
