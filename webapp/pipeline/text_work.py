"""The work of a request that is answered in text: the conversation so far, the call, and the checked pieces."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any, ClassVar

from sqlalchemy import bindparam, select

from webapp.contracts.calls import JsonOutput, Picture, Role, Text, TextCall, ToolCall, ToolPiece, Turn, Usage
from webapp.contracts.errors import MalformedAnswer, Rejected, TimedOut, Unavailable
from webapp.contracts.pictures import Progress
from webapp.contracts.providers import Capability
from webapp.contracts.texts import clean
from webapp.extensions import current_settings, reading, table_of
from webapp.models import Request, RequestStatus
from webapp.pipeline import charges, kept, pictures, sorting
from webapp.pipeline.brought import PICTURE_TOKENS, Brought, tokens_of
from webapp.pipeline.claims import Claimed
from webapp.pipeline.endings import Ending
from webapp.pipeline.work import Work
from webapp.routing import http, prices, route
from webapp.routing.calls import Calls, Tried, close
from webapp.routing.route import Ask, Route, Target

_MAX_TURNS = 60
_ANSWER_MAX_CHARS = 400_000
"""Far above what any output cap allows: a vendor that ignores the cap is cut off here."""


_TOOL_CALLS_MAX = 128
_NAME_CHARS = 200
_DOCUMENT_DEEPEST = 100


class NothingSees(Unavailable):
    """The request has pictures, and no model that may serve it sees any."""

    code: ClassVar[str] = "no_vision"


class TextWork(Work):
    """A chat request. `brought` is the conversation that its caller brought along, None where it is looked up."""

    def __init__(self, taken: Claimed, brought: Brought | None = None) -> None:
        super().__init__(taken)
        self._brought = brought
        self._turns: tuple[Turn, ...] = ()
        self._said: list[str] = []
        self._asked = _Asked()
        self._usage: Usage | None = None
        self._kept: kept.Kept | None = None
        self._output = _output(taken)
        self._ask: Ask | None = None

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._said)

    @property
    def produced(self) -> bool:
        return bool(self._said or self._asked.pieces)

    @property
    def asks_for_tools(self) -> bool:
        """Whether the model asked for any tool so far."""
        return bool(self._asked.pieces)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model asked for so far."""
        return self._asked.calls()

    @property
    def usage(self) -> Usage | None:
        """What the vendor counted, once it has."""
        return self._usage

    def ask(self) -> Ask:
        if self._ask is None:
            self._ask = self._what_is_asked()
        return self._ask

    def _what_is_asked(self) -> Ask:
        taken, brought = self.taken, self._brought
        needs: list[Capability] = []
        if taken.parameters.get("pictures") or (brought and [turn for turn in brought.turns if turn.pictures]):
            needs.append(Capability.VISION)
        if brought and brought.tools:
            needs.append(Capability.TOOLS)
        if self._output is not None:
            needs.append(Capability.JSON)
        return Ask(
            operation=taken.operation,
            category=self.sorting.category if self.sorting else None,
            plan=taken.plan_code,
            organization_id=taken.organization_id,
            needs=frozenset(needs),
            input_tokens=taken.max_input_tokens,
            output_tokens=taken.max_output_tokens,
            named=str(taken.parameters.get("model") or ""),
        )

    def plan(self) -> Route:
        """The route; `NothingSees` where the pictures alone are why there is none."""
        found = super().plan()
        if not found.targets and Capability.VISION in (ask := self.ask()).needs:
            blind = replace(ask, needs=ask.needs - {Capability.VISION})
            if route.plan(blind).targets:
                raise NothingSees("No model sees pictures.", detail=found.why_none)
        return found

    def pieces(self) -> Generator[str | ToolPiece | Progress, None, None]:
        self._turns = self._brought.turns if self._brought else self._conversation()
        key = kept.key(self.taken, self._turns) if self._may_be_kept else None
        self._kept = kept.find(key) if key and not self.taken.parameters.get("fresh") else None
        if self._kept is not None:
            self._said.append(self._kept.answer)
            yield self._kept.answer
            return
        self.sorting, self.house_calls = sorting.sort(self.taken)
        self._ask = None
        timeout_s = self.timeout_s
        self.calls = Calls(
            self.plan(),
            self._start,
            tokens=lambda _: self.taken.max_input_tokens + self.taken.max_output_tokens,
            timeout_s=timeout_s,
            afford=self.afford,
            stop=self.stop_asked,
            # An answer in one piece is silent until it is ready.
            silence_s=timeout_s if self._brought is not None and self._brought.whole else None,
        )
        stream = self.calls.pieces()
        try:
            for piece in stream:
                if isinstance(piece, Usage):
                    self._usage = charges.plausible(piece)
                elif isinstance(piece, ToolPiece):
                    self._asked.add(piece)
                    yield piece
                else:
                    self._said.append(piece.text)
                    yield piece.text
        finally:
            stream.close()

    def ended(self, *, stopped: bool) -> Ending:
        text = self.text
        if stopped:
            # A kept answer is free, whether it was read to its end or not.
            return Ending(
                RequestStatus.CANCELLED,
                answer=text or None,
                result=self._asked.as_result(),
                cached=self._kept is not None,
                error_code="cancelled",
            )
        if self._kept is not None:
            return Ending(
                RequestStatus.COMPLETED,
                answer=text,
                finish=self._kept.finish,
                result=_document(text) if self._output is not None else None,
                route=self._kept.route,
                cached=True,
            )
        finish = str(self._usage.finish) if self._usage else ""
        if self._asked.pieces:
            return Ending(RequestStatus.COMPLETED, answer=text or None, finish=finish, result=self._asked.as_result())
        if not text.strip():
            raise MalformedAnswer("The vendor sent an empty answer.")
        return Ending(
            RequestStatus.COMPLETED,
            answer=text,
            finish=finish,
            result=_document(text) if self._output is not None else None,
            quality=self._usage.quality if self._usage else None,
        )

    def settled(self, ending: Ending) -> None:
        if ending.status is RequestStatus.COMPLETED and self._kept is None and self._may_be_kept and not self._asked.pieces:
            by = self.calls.answered_by if self.calls else None
            kept.keep(kept.key(self.taken, self._turns), self.taken, ending, by.name if by else "")

    def estimate(self, tried: Tried) -> charges.Guess:  # noqa: ARG002 - about the same for every model
        sent = self._brought.tokens() if self._brought else tokens_of(self._turns)
        return charges.Guess(sent, self._tokens_said, self.taken.max_output_tokens)

    def _tokens_said(self) -> int:
        return prices.estimate_tokens(self.text) + self._asked.tokens()

    @property
    def _may_be_kept(self) -> bool:
        """Whether its answer may be one that was kept. Programs that bring their conversation say so if they want that."""
        return self._brought is None or (not self._brought.tools and self.taken.parameters.get("fresh") is False)

    # -- the call --------------------------------------------------------------------------------------------------
    def _start(self, target: Target, left_s: float) -> Iterator[Text | ToolPiece | Usage]:
        """The provider's pieces under our own checks: a plugin and its vendor are not taken at their word."""
        limit = target.provider.model_info(target.model).output_tokens
        wanted, shape, brought = self.taken.max_output_tokens, self.taken.parameters, self._brought
        call = TextCall(
            request_id=str(self.taken.id),
            model=target.model,
            turns=self._turns,
            max_output_tokens=min(wanted, limit) if limit else wanted,
            timeout_s=left_s,
            output=self._output,
            person_ref=self.person_ref(),
            temperature=shape.get("temperature"),
            top_p=shape.get("top_p"),
            stop=tuple(shape.get("stop") or ()),
            tools=brought.tools if brought else (),
            tool_choice=brought.tool_choice if brought else "",
            parallel_tools=brought.parallel_tools if brought else None,
            whole=bool(brought and brought.whole),
        )
        until, total = time.monotonic() + left_s, 0
        stream = target.text.stream(call, http.client())
        try:
            for piece in stream:
                if isinstance(piece, Usage):
                    yield piece
                    return
                if isinstance(piece, ToolPiece) and call.tools:
                    piece = _sound(piece, target)
                    total += len(piece.arguments) + len(piece.name)
                    if time.monotonic() > until or total > _ANSWER_MAX_CHARS:
                        raise MalformedAnswer("The vendor asked for tools and came to no end.")
                    yield piece
                    continue
                if not isinstance(piece, Text) or not isinstance(piece.text, str):
                    raise MalformedAnswer(f"The provider plugin {target.provider.name} yielded a {type(piece).__name__}.")
                if time.monotonic() > until:
                    raise TimedOut(f"No complete answer within {self.timeout_s:.0f} seconds.")
                text = clean(piece.text)
                total += len(text)
                if total > _ANSWER_MAX_CHARS:
                    raise MalformedAnswer("The vendor ignored the output cap and went on for too long.")
                if text:
                    yield piece if type(piece) is Text and text is piece.text else Text(text)
        finally:
            close(stream)

    def _conversation(self) -> tuple[Turn, ...]:
        system = current_settings().system_prompt
        mine = Turn(Role.USER, self.taken.prompt, _pictures(self.taken))
        fixed = prices.estimate_input((Turn(Role.SYSTEM, system), mine)) + PICTURE_TOKENS * len(mine.pictures)
        earlier = _earlier(self.taken, self.taken.max_input_tokens - fixed)
        return (Turn(Role.SYSTEM, system), *earlier, mine)


class _Asked:
    """The tools that a model asks for, put together from their pieces."""

    def __init__(self) -> None:
        self.pieces: dict[int, list[ToolPiece]] = {}

    def add(self, piece: ToolPiece) -> None:
        self.pieces.setdefault(piece.index, []).append(piece)

    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(pieces[0].id, pieces[0].name, "".join(piece.arguments for piece in pieces))
            for _, pieces in sorted(self.pieces.items())
        )

    def as_result(self) -> dict[str, Any] | None:
        """As a request's result; None where nothing was asked for."""
        if not self.pieces:
            return None
        found = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in self.calls()]
        return {"tool_calls": found}

    def tokens(self) -> int:
        return sum(prices.estimate_tokens(call.name) + prices.estimate_tokens(call.arguments) for call in self.calls())


def _sound(piece: ToolPiece, target: Target) -> ToolPiece:
    """A plugin's piece of a tool call, known to be one."""
    texts = (piece.id, piece.name, piece.arguments)
    index: object = piece.index
    if type(index) is not int or not 0 <= index < _TOOL_CALLS_MAX or not all(isinstance(text, str) for text in texts):
        raise MalformedAnswer(f"The provider plugin {target.provider.name} yielded a tool call that is none.")
    return ToolPiece(index, clean(piece.id)[:_NAME_CHARS], clean(piece.name)[:_NAME_CHARS], clean(piece.arguments))


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
        found = json.loads(bare, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _is_shallow(found) else None


def _no_constant(name: str) -> None:
    # NaN and Infinity are no JSON, and PostgreSQL does not store them.
    raise ValueError(name)


def _is_shallow(document: dict[str, Any]) -> bool:
    """Whether it can be written again wherever it is read: at a greater depth of the stack there may be no room for it."""
    level: list[Any] = [document]
    for _ in range(_DOCUMENT_DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return True
    return False


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
