"""The work of a request that is answered in text: the conversation so far, the call, and the checked pieces."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, ClassVar

from sqlalchemy import bindparam, select

from webapp.contracts.calls import JsonOutput, Picture, Role, Text, TextCall, Turn, Usage
from webapp.contracts.errors import MalformedAnswer, Rejected, TimedOut, Unavailable
from webapp.contracts.pictures import Progress
from webapp.contracts.providers import Capability
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, reading, table_of
from webapp.models import Request, RequestStatus
from webapp.pipeline import charges, kept, pictures, sorting
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Ending
from webapp.pipeline.work import Work
from webapp.routing import http, prices, route
from webapp.routing.calls import Calls, Tried, closable
from webapp.routing.route import Ask, Route, Target

_MAX_TURNS = 60
_ANSWER_MAX_CHARS = 400_000
"""Far above what any output cap allows: a vendor that ignores the cap is cut off here."""
PICTURE_TOKENS = 1_600
"""What a picture in a prompt counts for before the vendor has counted it: the most of the vendors' usual sizes."""


class NothingSees(Unavailable):
    """The request has pictures, and no model that may serve it sees any."""

    code: ClassVar[str] = "no_vision"


class TextWork(Work):
    """A chat request."""

    def __init__(self, taken: Claimed) -> None:
        super().__init__(taken)
        self._turns: tuple[Turn, ...] = ()
        self._said: list[str] = []
        self._usage: Usage | None = None
        self._kept: kept.Kept | None = None
        self._output = _output(taken)

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._said)

    @property
    def produced(self) -> bool:
        return bool(self._said)

    def ask(self) -> Ask:
        needs = set()
        if self.taken.parameters.get("pictures"):
            needs.add(Capability.VISION)
        if self._output is not None:
            needs.add(Capability.JSON)
        return Ask(
            operation=self.taken.operation,
            category=self.sorting.category if self.sorting else None,
            plan=self.taken.plan_code,
            organization_id=self.taken.organization_id,
            needs=frozenset(needs),
            input_tokens=self.taken.max_input_tokens,
            output_tokens=self.taken.max_output_tokens,
            named=str(self.taken.parameters.get("model") or ""),
        )

    def plan(self) -> Route:
        """The route; `NothingSees` where the pictures alone are why there is none."""
        found, ask = super().plan(), self.ask()
        if not found.targets and Capability.VISION in ask.needs:
            blind = replace(ask, needs=ask.needs - {Capability.VISION})
            if route.plan(blind).targets:
                raise NothingSees("No model sees pictures.", detail=found.why_none)
        return found

    def pieces(self) -> Generator[str | Progress, None, None]:
        self._turns = self._conversation()
        key = kept.key(self.taken, self._turns)
        self._kept = kept.find(key) if key and not self.taken.parameters.get("fresh") else None
        if self._kept is not None:
            self._said.append(self._kept.answer)
            yield self._kept.answer
            return
        self.sorting, self.house_calls = sorting.sort(self.taken)
        self.calls = Calls(
            self.plan(),
            self._start,
            tokens=lambda _: self.taken.max_input_tokens + self.taken.max_output_tokens,
            timeout_s=self.timeout_s,
            afford=self.afford,
            stop=self.stop_asked,
        )
        with closing(self.calls.pieces()) as stream:
            for piece in stream:
                if isinstance(piece, Usage):
                    self._usage = charges.plausible(piece)
                else:
                    self._said.append(piece.text)
                    yield piece.text

    def ended(self, *, stopped: bool) -> Ending:
        text = self.text
        if stopped:
            # A kept answer is free, whether it was read to its end or not.
            return Ending(RequestStatus.CANCELLED, answer=text or None, cached=self._kept is not None, error_code="cancelled")
        if self._kept is not None:
            return Ending(
                RequestStatus.COMPLETED,
                answer=text,
                finish=self._kept.finish,
                result=_document(text) if self._output is not None else None,
                route=self._kept.route,
                cached=True,
            )
        if not text.strip():
            raise MalformedAnswer("The vendor sent an empty answer.")
        finish = self._usage.finish.value if self._usage else ""
        return Ending(
            RequestStatus.COMPLETED,
            answer=text,
            finish=finish,
            result=_document(text) if self._output is not None else None,
            quality=self._usage.quality if self._usage else None,
        )

    def settled(self, ending: Ending) -> None:
        if ending.status is RequestStatus.COMPLETED and self._kept is None:
            by = self.calls.answered_by if self.calls else None
            kept.keep(kept.key(self.taken, self._turns), self.taken, ending, by.name if by else "")

    def estimate(self, tried: Tried) -> charges.Guess:  # noqa: ARG002 - about the same for every model
        sent = prices.estimate_input(self._turns) + PICTURE_TOKENS * sum(len(turn.pictures) for turn in self._turns)
        return charges.Guess(sent, prices.estimate_tokens(self.text), self.taken.max_output_tokens)

    # -- the call --------------------------------------------------------------------------------------------------
    def _start(self, target: Target, left_s: float) -> Iterator[Text | Usage]:
        """The provider's pieces under our own checks: a plugin and its vendor are not taken at their word."""
        limit = target.provider.model_info(target.model).output_tokens
        wanted = self.taken.max_output_tokens
        call = TextCall(
            request_id=str(self.taken.id),
            model=target.model,
            turns=self._turns,
            max_output_tokens=min(wanted, limit) if limit else wanted,
            timeout_s=left_s,
            output=self._output,
            person_ref=self.person_ref(),
        )
        until, total = time.monotonic() + left_s, 0
        with closing(closable(target.text.stream(call, http.client()))) as stream:
            for piece in stream:
                if isinstance(piece, Usage):
                    yield piece
                    return
                if not isinstance(piece, Text) or not isinstance(piece.text, str):
                    raise MalformedAnswer(f"The provider plugin {target.provider.name} yielded a {type(piece).__name__}.")
                if time.monotonic() > until:
                    raise TimedOut(f"No complete answer within {self.timeout_s:.0f} seconds.")
                text = clean(piece.text)
                total += len(text)
                if total > _ANSWER_MAX_CHARS:
                    raise MalformedAnswer("The vendor ignored the output cap and went on for too long.")
                if text:
                    yield Text(text)

    def _conversation(self) -> tuple[Turn, ...]:
        system = current_settings().system_prompt
        mine = Turn(Role.USER, self.taken.prompt, _pictures(self.taken))
        fixed = prices.estimate_input((Turn(Role.SYSTEM, system), mine)) + PICTURE_TOKENS * len(mine.pictures)
        earlier = _earlier(self.taken, self.taken.max_input_tokens - fixed)
        return (Turn(Role.SYSTEM, system), *earlier, mine)


def _pictures(taken: Claimed) -> tuple[Picture, ...]:
    try:
        return tuple(pictures.read(digest) for digest in taken.parameters.get("pictures") or ())
    except (OSError, ValueError) as exc:
        raise Rejected("A picture of this request is not there any more.", detail=str(exc)) from exc


def _output(taken: Claimed) -> JsonOutput | None:
    wanted = taken.parameters.get("output")
    if not isinstance(wanted, dict):
        return None
    return JsonOutput(str(wanted.get("name") or "answer"), wanted.get("schema"))


def _document(text: str) -> dict[str, Any] | None:
    """The JSON object that an answer is, None if it is none."""
    bare = text.strip()
    if bare.startswith("```"):  # many models wrap it, whatever they were told
        bare = bare.split("\n", 1)[-1].rsplit("```", 1)[0]
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


_table = table_of(Request)
_history = (
    select(_table.c.prompt, _table.c.answer)
    .where(
        _table.c.conversation_id == bindparam("conversation"),
        _table.c.id < bindparam("before"),
        _table.c.status == RequestStatus.COMPLETED,
        # A picture that was drawn is no turn.
        _table.c.answer.is_not(None),
    )
    .order_by(_table.c.id.desc())
    .limit(_MAX_TURNS // 2)
)


def _earlier(taken: Claimed, budget_tokens: int) -> tuple[Turn, ...]:
    """Earlier turns of the conversation, newest kept first, whole exchanges only, within the tokens that were held for them."""
    if taken.conversation_id is None or budget_tokens <= 0:
        return ()
    with reading() as connection:
        rows: Any = connection.execute(_history, {"conversation": taken.conversation_id, "before": taken.id}).all()
    turns: list[Turn] = []
    for prompt, answer in rows:
        exchange = (Turn(Role.ASSISTANT, answer), Turn(Role.USER, prompt))
        budget_tokens -= sum(prices.estimate_tokens(turn.text) + prices.TURN_TOKENS for turn in exchange)
        if budget_tokens < 0:
            break
        turns += exchange
    return tuple(reversed(turns))
