"""The work of a request for pictures: the call, its progress, and what it made, checked and stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, ClassVar

import httpx

from webapp.contracts.calls import Picture, Usage
from webapp.contracts.errors import BadInput, MalformedAnswer, Rejected, TimedOut, Unavailable
from webapp.contracts.pictures import Drawn, ImageAction, ImageCall, Progress
from webapp.contracts.texts import clean
from webapp.models import RequestStatus
from webapp.pipeline import charges, pictures
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Ending, Made
from webapp.pipeline.work import Work
from webapp.routing import http, prices
from webapp.routing.calls import Calls, OurFailure, Tried, closable
from webapp.routing.route import Ask, Target

log = logging.getLogger(__name__)

PICTURES_MAX = 8
_ACTIONS_MAX = 24
_TOKEN_CHARS = 2000


class NoPicture(MalformedAnswer):
    """What the vendor drew cannot be read. It bills that, and would bill another as well: it is not asked again."""

    retryable: ClassVar[bool] = False


class NotStored(OurFailure):
    """A picture was made and will be billed, but it cannot be written to the data directory."""

    code: ClassVar[str] = "picture_not_stored"


class ImageWork(Work):
    """A request for pictures. `parameters` are those of `ImageCall` that the person chose."""

    def __init__(self, taken: Claimed) -> None:
        super().__init__(taken)
        self._made: list[Made] = []
        self._source: Picture | None = None
        self._drawn: dict[int, int] = {}
        """How many pictures each call has given, by its number: also those that could not be read or stored."""

    @property
    def produced(self) -> bool:
        return bool(self._made)

    def ask(self) -> Ask:
        return Ask(
            operation=self.taken.operation,
            plan=self.taken.plan_code,
            organization_id=self.taken.organization_id,
            input_tokens=self.taken.max_input_tokens,
            output_tokens=self.taken.max_output_tokens,
            pictures=1,
            named=str(self.taken.parameters.get("model") or ""),
        )

    def pieces(self) -> Generator[str | Progress, None, None]:
        self._source = _source(self.taken)
        self.calls = Calls(
            self.plan(),
            self._start,
            tokens=lambda _: self.taken.max_input_tokens,
            timeout_s=self.timeout_s,
            afford=self.afford,
            stop=self.stop_asked,
            # A picture may take minutes without a byte.
            silence_s=self.timeout_s,
        )
        with closing(self.calls.pieces()) as stream:
            for piece in stream:
                if isinstance(piece, Progress):
                    yield piece
                elif isinstance(piece, Made):
                    self._made.append(piece)

    def ended(self, *, stopped: bool) -> Ending:
        found = tuple(self._made)
        if stopped:
            return Ending(RequestStatus.CANCELLED, pictures=found, error_code="cancelled")
        if not found:
            raise MalformedAnswer("The vendor sent no picture.")
        shown = [
            {
                "sha256": made.stored.sha256,
                "media_type": made.stored.media_type,
                "width": made.stored.width,
                "height": made.stored.height,
                "seed": made.seed,
                "actions": [label for label, _ in made.actions],
            }
            for made in found
        ]
        return Ending(RequestStatus.COMPLETED, result={"pictures": shown}, pictures=found, finish="stop")

    def estimate(self, tried: Tried) -> charges.Guess:
        drawn = self._drawn.get(tried.number, 0) or int(_was_drawing(tried))
        prompt_tokens = prices.estimate_tokens(self.taken.prompt)
        return charges.Guess(prompt_tokens, 0, self.taken.max_output_tokens, pictures=drawn, drawing=True)

    def _start(self, target: Target, left_s: float) -> Iterator[Progress | Made | Usage]:
        """The provider's pieces; each picture is checked and stored before anybody hears of it."""
        number, count = len(self.calls.tried) - 1 if self.calls else 0, 0
        until = time.monotonic() + left_s
        with closing(closable(target.images.draw(self._call(target, left_s), http.client()))) as stream:
            for piece in stream:
                if isinstance(piece, Usage):
                    yield piece
                    return
                # A picture that comes late was paid for all the same.
                if time.monotonic() > until and (count >= PICTURES_MAX or not isinstance(piece, Drawn)):
                    raise TimedOut(f"No picture within {self.timeout_s:.0f} seconds.")
                if isinstance(piece, Progress):
                    yield Progress(min(100, max(0, int(piece.percent))))
                elif isinstance(piece, Drawn):
                    count += 1
                    self._drawn[number] = count
                    if count <= PICTURES_MAX:
                        yield _stored(target, piece)
                else:
                    raise MalformedAnswer(f"The provider plugin {target.provider.name} yielded a {type(piece).__name__}.")

    def _call(self, target: Target, left_s: float) -> ImageCall:
        given: dict[str, Any] = dict(self.taken.parameters)
        action = given.get("action")
        return ImageCall(
            request_id=str(self.taken.id),
            model=target.model,
            prompt=self.taken.prompt,
            timeout_s=left_s,
            negative_prompt=str(given.get("negative_prompt") or ""),
            width=int(given.get("width") or 1024),
            height=int(given.get("height") or 1024),
            seed=given.get("seed"),
            style=str(given.get("style") or ""),
            source=self._source,
            action=ImageAction(str(action[0]), str(action[1])) if isinstance(action, list) and len(action) == 2 else None,
            person_ref=self.person_ref(),
        )


def _source(taken: Claimed) -> Picture | None:
    """The picture to start from, None for none."""
    given = taken.parameters.get("pictures") or []
    try:
        return pictures.read(given[0]) if given else None
    except (OSError, ValueError) as exc:
        raise Rejected("A picture of this request is not there any more.", detail=str(exc)) from exc


def _was_drawing(tried: Tried) -> bool:
    """Whether a call that gave no picture and no count had probably begun one, which the vendor then bills: it was cancelled,
    ran out of time or broke off. What the vendor itself refused it does not bill."""
    error = tried.error
    if tried.outcome == "completed" or isinstance(tried.usage, Usage):
        return False
    if isinstance(error, Unavailable):
        lost = isinstance(error.__cause__, httpx.TransportError)
        reached = not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
        return tried.first_piece_ms is not None or (lost and reached)
    return error is None or (isinstance(error, TimedOut | MalformedAnswer) and error.status is None)


def _stored(target: Target, drawn: Drawn) -> Made:
    try:
        stored = pictures.store(drawn.picture.data)
    except BadInput as exc:
        raise NoPicture(f"What {target.provider.label} sent is no picture.", detail=exc.message) from exc
    except OSError as exc:
        log.error("a picture cannot be stored: %s", exc)
        raise NotStored("The picture cannot be stored.", detail=f"{type(exc).__name__}: {exc}") from exc
    actions = tuple(
        (clean(str(action.label))[:80], str(action.token))
        for action in drawn.actions[:_ACTIONS_MAX]
        if len(str(action.token)) <= _TOKEN_CHARS
    )
    seed = drawn.seed if isinstance(drawn.seed, int) and abs(drawn.seed) < 2**62 else None
    return Made(stored, seed, actions)
