"""Calls to image models: what the core asks of a provider, and what a provider yields."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.contracts.calls import Picture


@dataclass(frozen=True, slots=True)
class ImageAction:
    """Something that can be done with a picture that was made, such as enlarging one of four.

    `label` is for people; `token` is the provider's own and comes back in `ImageCall.action` as it was given (at most 2000
    characters). Nobody else reads it.
    """

    label: str
    token: str


@dataclass(frozen=True, slots=True)
class ImageCall:
    """Pictures to be made. `width` and `height` are pixels that are wished for: a provider takes the nearest it can.

    `style` is a word such as `photographic`; a provider that knows no styles puts it into the prompt. `seed` None means
    any. `source` is a picture to start from, `action` something to be done with an earlier result; with an action the other
    fields only describe what was asked at first. `timeout_s` is what remains of the request's time.
    """

    request_id: str
    model: str
    prompt: str
    timeout_s: float
    negative_prompt: str = ""
    width: int = 1024
    height: int = 1024
    seed: int | None = None
    style: str = ""
    source: Picture | None = None
    action: ImageAction | None = None
    person_ref: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the vendor says it is, in whole percent, 0 to 100."""

    percent: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A finished picture: its bytes, never an address, because the vendors' addresses expire and tell on the reader."""

    picture: Picture
    seed: int | None = None
    actions: tuple[ImageAction, ...] = ()
