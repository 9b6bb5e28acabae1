"""A request of the operator's own: admitted like anybody's, executed in this process or followed where a worker was faster."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.contracts.calls import ToolPiece
from webapp.contracts.errors import Conflict, SetupError
from webapp.contracts.pictures import Progress
from webapp.extensions import now, reading
from webapp.models import Attachment, AttachmentKind, Attempt, ErrorLog, Person, PersonRole, Request, RequestStatus
from webapp.pipeline import cancel, stream
from webapp.pipeline.admit import admit
from webapp.pipeline.claims import Claimed, claim
from webapp.pipeline.execute import run
from webapp.pipeline.intake import Intake
from webapp.pipeline.settle import settle
from webapp.services import people

MEDIUM = "cli"
_STOPS_WITHIN_S = 10.0


class Shown(Protocol):
    """Where the pieces go."""

    def piece(self, piece: str | Progress) -> None:
        """Show what came."""

    def anew(self) -> None:
        """What was shown is void: another process has begun the request again."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A call that was made, with the vendor's own words: for operators."""

    model: str
    outcome: str
    error_code: str
    detail: str
    time_s: float


@dataclass(frozen=True, slots=True)
class Error:
    """What the error log says."""

    kind: str
    message: str
    detail: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture that was made."""

    sha256: str
    media_type: str
    width: int
    height: int
    seed: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a request. `waits_until` is set for one that waits for cheaper hours, `interrupted` after Ctrl-C."""

    request_id: uuid.UUID
    conversation_id: uuid.UUID | None
    status: str
    answer: str | None
    result: Mapping[str, Any] | None
    finish: str
    provider: str
    model: str
    why: str
    cached: bool
    input_tokens: int
    output_tokens: int
    cost_microusd: int
    time_s: float
    waits_until: datetime | None
    error_code: str
    error_message: str
    interrupted: bool
    attempts: tuple[Tried, ...]
    errors: tuple[Error, ...]
    pictures: tuple[Drawn, ...]

    @property
    def exit_code(self) -> int:
        """0 for an answer, or for one that is to come in cheaper hours."""
        if self.interrupted:
            return 130
        return 0 if self.status == RequestStatus.COMPLETED or self.waits_until else 1


class _CtrlC(GeneratorExit):
    """Ctrl-C as a generator sees the end of its reader: the call is closed at once, and what it used is settled."""


def person(who: str | None) -> uuid.UUID:
    """The id of the person with this e-mail, phone number or id; without one, of the first administrator."""
    with reading() as connection, Session(bind=connection) as session:
        if who is not None:
            return people.find(session, who).id
        query = select(Person.id).where(Person.role == PersonRole.ADMIN, Person.active).order_by(Person.id).limit(1)
        found = session.scalar(query)
    if found is None:
        raise SetupError("There is no active administrator: make one by `switchhook admin create`, or say --as WHO.")
    return found


def ask(intake: Intake, shown: Shown) -> Report:
    """Admit it and see it through to its end. Ctrl-C cancels it. Raises what `admit` raises."""
    assert intake.person_id is not None, "the command line knows who asks"
    request_id = admit(intake).request_id
    assert request_id is not None, "a known person's request is stored"
    interrupted = False
    try:
        if not _waits(request_id):
            taken = claim(request_id)
            if taken is None:
                _follow(request_id, shown)
            else:
                _execute(taken, shown)
    except (KeyboardInterrupt, _CtrlC):
        interrupted = True
        _cancel(request_id, intake.person_id)
    return _report(request_id, interrupted=interrupted)


def _waits(request_id: uuid.UUID) -> bool:
    with reading() as connection:
        not_before = connection.execute(select(Request.not_before).where(Request.id == request_id)).scalar()
    return not_before is not None and not_before > now()


def _execute(taken: Claimed, shown: Shown) -> None:
    with _ctrl_c_closes(), closing(run(taken)) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            if not isinstance(piece, ToolPiece):
                shown.piece(piece)


@contextmanager
def _ctrl_c_closes() -> Iterator[None]:
    """Make Ctrl-C end the call that is under way, whatever it waits for, but not the writing of the books."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def close(_number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is settle.__code__:
                return  # it is ending already
            frame = frame.f_back
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _CtrlC

    before = signal.signal(signal.SIGINT, close)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(request_id: uuid.UUID, shown: Shown) -> None:
    """Show what another process makes of it."""
    last = ""
    while True:
        with closing(stream.read(request_id, last)) as events:  # type: ignore[type-var]
            for event in events:
                last = event.id or last
                if event.kind is stream.Kind.END:
                    return
                if event.kind is stream.Kind.RESET:
                    shown.anew()
                if event.text:
                    shown.piece(event.text)


def _cancel(request_id: uuid.UUID, person_id: uuid.UUID) -> None:
    """Stop it wherever it is, and wait a little for its end."""
    try:
        cancel.cancel(request_id, person_id)
    except Conflict:
        return
    with closing(stream.read(request_id, for_s=_STOPS_WITHIN_S)) as events:  # type: ignore[type-var]
        for event in events:
            if event.kind is stream.Kind.END:
                return


def _report(request_id: uuid.UUID, *, interrupted: bool) -> Report:
    with reading() as connection:
        row: Any = connection.execute(select(Request.__table__).where(Request.id == request_id)).one()
        calls = connection.execute(
            select(Attempt.__table__).where(Attempt.request_id == request_id).order_by(Attempt.execution, Attempt.number)
        ).all()
        errors = connection.execute(
            select(ErrorLog.kind, ErrorLog.message, ErrorLog.detail)
            .where(ErrorLog.request_id == request_id)
            .order_by(ErrorLog.id)
        ).all()
        made = connection.execute(
            select(Attachment.sha256, Attachment.media_type, Attachment.width, Attachment.height, Attachment.seed)
            .where(Attachment.request_id == request_id, Attachment.kind == AttachmentKind.MADE)
            .order_by(Attachment.id)
        ).all()
    waits = row.status == RequestStatus.QUEUED and row.not_before is not None
    return Report(
        request_id=request_id,
        conversation_id=row.conversation_id,
        status=row.status,
        answer=row.answer,
        result=row.result,
        finish=row.finish or "",
        provider=row.provider or "",
        model=row.model or "",
        why=str((row.route or {}).get("by", "")),
        cached=row.cached,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost_microusd=row.cost_microusd,
        time_s=_seconds(row.started_at, row.ended_at),
        waits_until=row.not_before if waits else None,
        error_code=row.error_code or "",
        error_message=row.error_message or "",
        interrupted=interrupted,
        attempts=tuple(_tried(call) for call in calls),
        errors=tuple(Error(error.kind, error.message, error.detail or "") for error in errors),
        pictures=tuple(Drawn(*picture) for picture in made),
    )


def _tried(call: Any) -> Tried:
    model = "/".join(part for part in (call.provider, call.model) if part)
    time_s = _seconds(call.started_at, call.ended_at)
    return Tried(model, call.outcome, call.error_code or "", call.detail or "", time_s)


def _seconds(began: datetime | None, ended: datetime | None) -> float:
    return round(max(0.0, (ended - began).total_seconds()), 3) if began and ended else 0.0
