"""What can be done with a grid of four pictures: as a token for our core, and back as a call to the proxy.

A token has been out of our hands when it comes back, so only what this module could have written is sent on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from webapp.plugin import ImageAction, Rejected, vendor_id

_ACTIONS_MAX = 25
_TOKEN_CHARS = 2000
_LABEL_CHARS = 60
_TASK = r"(?P<task>[A-Za-z0-9_-]{1,64})"
_CUSTOM_ID = re.compile(r"MJ::[A-Za-z0-9_:.-]{1,400}")
_BUTTON = re.compile(rf"button {_TASK} (?P<custom>{_CUSTOM_ID.pattern})")
_CHANGE = re.compile(rf"change {_TASK} (?P<what>[UV][1-4]|R)")
# Buttons that ask for a further input, or change nothing about the picture.
_NOT_OFFERED = re.compile(r"CustomZoom|Inpaint|BOOKMARK|PicReader|PromptAnalyzer|Picread|animate", re.I)
_CHANGES = (*(f"U{number}" for number in range(1, 5)), *(f"V{number}" for number in range(1, 5)), "R")
_GRIDS = frozenset({"IMAGINE", "VARIATION", "REROLL", "BLEND"})
_NAMES = {"U": "UPSCALE", "V": "VARIATION", "R": "REROLL"}
_AGAIN = "Reroll"


def of_buttons(task_id: str, buttons: Iterable[object]) -> tuple[ImageAction, ...]:
    """The actions behind the buttons of a trueai task."""
    return tuple(_of_buttons(task_id, buttons))[:_ACTIONS_MAX]


def _of_buttons(task_id: str, buttons: Iterable[object]) -> Iterator[ImageAction]:
    for button in buttons:
        custom = button.get("customId") if isinstance(button, dict) else None
        if not isinstance(button, dict) or not isinstance(custom, str):
            continue
        if not _CUSTOM_ID.fullmatch(custom) or _NOT_OFFERED.search(custom):
            continue
        words = (button.get("label"), _AGAIN if "reroll" in custom else "", button.get("emoji"))
        label = next((vendor_id(word).strip() for word in words if isinstance(word, str) and vendor_id(word).strip()), "")
        if label:
            yield ImageAction(label[:_LABEL_CHARS], f"button {task_id} {custom}")


def of_grid(task_id: str, action: str) -> tuple[ImageAction, ...]:
    """What a proxy without buttons (novicezk) can do with the result of `action`: nothing more with an enlarged picture."""
    if action not in _GRIDS:
        return ()
    return tuple(ImageAction(_AGAIN if what == "R" else what, f"change {task_id} {what}") for what in _CHANGES)


def submission(action: ImageAction, label: str) -> tuple[str, dict[str, object]]:
    """The path and body for a token. Raises `Rejected` for one that is not ours."""
    token = action.token if len(action.token) <= _TOKEN_CHARS else ""
    if found := _BUTTON.fullmatch(token):
        return "/mj/submit/action", {"taskId": found["task"], "customId": found["custom"]}
    if found := _CHANGE.fullmatch(token):
        what = found["what"]
        body: dict[str, object] = {"taskId": found["task"], "action": _NAMES[what[0]]}
        return "/mj/submit/change", body | ({"index": int(what[1])} if what != "R" else {})
    raise Rejected(f"This is nothing that {label} can do with a picture.")
