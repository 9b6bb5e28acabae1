"""Warm-up: answers to the questions of a file are kept ready, so that nobody waits for them and nobody pays for them twice.

Each question is an ordinary request of the first administrator in a conversation of its own, with quotas, ledger and all.
Others of the administrator's organization find its answer, because a key says nothing about plans (`webapp.pipeline.kept`):
whoever may have an answer of its length gets it, whichever model the route of their own plan would have named.

An answer is asked for again when it is not kept any more, so it costs what the model costs once in SWITCHHOOK_CACHE_CHAT_S.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import cast

import redis
from flask import Flask, current_app
from redis.exceptions import LockError
from sqlalchemy import select, update

from webapp import queues
from webapp.contracts.calls import Role, Turn
from webapp.contracts.errors import LimitReached, Refusal, SwitchhookError
from webapp.contracts.texts import clean, frames
from webapp.extensions import current_settings, now, queue_redis, reading, writing
from webapp.models import Conversation, Person, PersonRole, Request, RequestStatus
from webapp.models.requests import ENDED
from webapp.pipeline import kept
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.pipeline.timing import job_timeout_s

log = logging.getLogger(__name__)

MEDIUM = "warmup"
OPERATION = "chat"
QUESTIONS_MAX = 500
AT_ONCE = 4
"""How many questions are under way at the same time."""
LOOK_S = 300
"""How often the scheduler looks for questions whose answer is not kept any more."""
TASK = queues.Task("warm", "webapp.pipeline.warm.job", 600)
_SUBJECT = "now"
PREFIX = "switchhook:warm:"
_LOCK = f"{PREFIX}lock"
_PAUSED = f"{PREFIX}paused"
VAIN = f"{PREFIX}vain:"
_JOB_S = 240.0
"""For how long one job begins new questions; the scheduler's next look has the rest done."""
_VAIN_S, _FAILED_S = 86_400, 3600
"""For how long the scheduler leaves a question alone whose answer cannot be kept, or that failed."""
_FAILURES_IN_A_ROW = 3
_POLL_S = 0.1


class CannotWarm(SwitchhookError):
    """There is nothing that can be done now; the message says what to change."""

    code = "cannot_warm"


class Fate(StrEnum):
    """What became of a question."""

    ANSWERED = "answered"
    FREE = "free"
    """It was kept already when its turn came."""
    NOT_KEPT = "not kept"
    """It was answered, but the answer is cut off or filtered, and such are not kept."""
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done: the questions without an answer, by their names in Redis. `notes` are lines that were left out."""

    person_id: uuid.UUID
    questions: int
    missing: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Summary:
    """What was done. `stopped` says why questions are left, '' if none are."""

    questions: int
    kept_before: int
    fates: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    left: int = 0
    cost_microusd: int = 0
    stopped: str = ""

    @property
    def good(self) -> bool:
        """Whether every question has its answer ready now."""
        return self.questions == self.kept_before + self.fates[Fate.ANSWERED] + self.fates[Fate.FREE]


@dataclass(frozen=True, slots=True)
class _Asked:
    fate: Fate
    cost_microusd: int = 0
    why: str = ""
    resets_at: datetime | None = None


# -- what there is to do -------------------------------------------------------------------------------------------------
def read(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The questions of a file, each once, and which lines were left out and why. `CannotWarm` if it cannot be read."""
    longest = current_settings().prompt_max_chars
    try:
        if not path.is_file():
            raise CannotWarm(f"There is no file {path}: name a text file with one question a line.")
        if path.stat().st_size > QUESTIONS_MAX * (longest + 2) * 4:
            raise CannotWarm(f"{path} is too large for a list of at most {QUESTIONS_MAX} questions.")
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as exc:
        raise CannotWarm(f"{path} cannot be read ({exc.strerror}).") from exc
    except UnicodeDecodeError as exc:
        raise CannotWarm(f"{path} is no text in UTF-8.") from exc
    found: dict[str, None] = {}
    notes: list[str] = []
    for number, line in enumerate(lines, 1):
        question = clean(line).strip()
        if not question or question.startswith("#") or question in found:
            continue
        if len(question) > longest:
            notes.append(f"Line {number} is left out: it has {len(question):,} characters; at most {longest:,} are taken.")
        elif len(found) == QUESTIONS_MAX:
            notes.append(f"Line {number} and all after it are left out: at most {QUESTIONS_MAX} questions are taken.")
            break
        else:
            found[question] = None
    return list(found), tuple(notes)


def plan(path: Path | None) -> Plan:
    """What a file's questions need. `CannotWarm` says what keeps the warm-up from making sense."""
    settings = current_settings()
    if path is None:
        raise CannotWarm("No file is named: set SWITCHHOOK_CACHE_WARM_FILE to a text file with one question a line.")
    if settings.cache_scope != "organization":
        raise CannotWarm(
            f"Answers that are warmed up reach others only with SWITCHHOOK_CACHE_SCOPE=organization; it is "
            f"{settings.cache_scope!r} now."
        )
    if not kept.lifetime_s(OPERATION):
        raise CannotWarm("No answers are kept: set SWITCHHOOK_CACHE_CHAT_S to the seconds for which they are to be kept.")
    questions, notes = read(path)
    person_id, organization_id = _administrator()
    names = {
        kept.name_of(
            organization_id, person_id, OPERATION, {}, (Turn(Role.SYSTEM, settings.system_prompt), Turn(Role.USER, question))
        ): question
        for question in questions
    }
    try:
        there = kept.are_there(list(names))
    except redis.RedisError as exc:
        raise CannotWarm("The queue (Redis) is away, and answers are kept there: start Switchhook.") from exc
    missing = {name: text for (name, text), known in zip(names.items(), there, strict=True) if not known}
    return Plan(person_id, len(names), missing, notes)


def _administrator() -> tuple[uuid.UUID, uuid.UUID]:
    """(person, organization) of the first administrator."""
    query = (
        select(Person.id, Person.organization_id)
        .where(Person.role == PersonRole.ADMIN, Person.active)
        .order_by(Person.id)
        .limit(1)
    )
    with reading() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise CannotWarm("There is no active administrator to ask the questions: `switchhook admin create` makes one.")
    return row.id, row.organization_id


# -- by the clock --------------------------------------------------------------------------------------------------------
_warned: set[str] = set()


def look() -> bool:
    """Hand the warm-up to a worker if it is set up and has something to do; whether it was. Called by the scheduler."""
    path = current_settings().cache_warm_file
    if path is None:
        return False
    try:
        if not _not_in_vain(plan(path)):
            return False
        client = queue_redis()
        waiting = client.lpos(queues.queue(queues.LOW, client).key, queues.job_id(TASK, _SUBJECT)) is not None
        if waiting or client.exists(_LOCK, _PAUSED):
            return False
    except CannotWarm as exc:
        _warn(exc.message)
        return False
    except redis.RedisError as exc:
        log.debug("the warm-up waits for Redis: %s", type(exc).__name__)
        return False
    return queues.put(client, TASK, [_SUBJECT], queues.LOW, int(_JOB_S) + 2 * job_timeout_s())


def job(_: str) -> None:
    """The warm-up as a job: what it has no time for, the next one does."""
    try:
        found = plan(current_settings().cache_warm_file)
        for note in found.notes:
            _warn(note)
        found = Plan(found.person_id, found.questions, _not_in_vain(found))
        summary = warm(found, begin_for_s=_JOB_S)
    except CannotWarm as exc:
        _warn(exc.message)
        return
    done = ", ".join(f"{number} {fate.value}" for fate, number in summary.fates.items() if number)
    log.info("warm-up: %s of %s questions were asked: %s", len(found.missing) - summary.left, summary.questions, done or "none")
    if summary.stopped:
        log.warning("the warm-up was stopped: %s", summary.stopped)


def _warn(message: str) -> None:
    """Say it once in a process: the clock comes by every few minutes."""
    if message not in _warned:
        _warned.add(message)
        log.warning("answers are not warmed up as they should be: %s", message)


def _not_in_vain(found: Plan) -> dict[str, str]:
    """The missing questions without those that were asked lately and came to nothing: asking again costs again."""
    names = list(found.missing)
    try:
        vain = kept.are_there([_vain(name) for name in names])
    except redis.RedisError as exc:
        raise CannotWarm("The queue (Redis) is away, and answers are kept there: start Switchhook.") from exc
    return {name: found.missing[name] for name, is_vain in zip(names, vain, strict=True) if not is_vain}


def _vain(name: str) -> str:
    return VAIN + name.removeprefix(kept.PREFIX)


# -- the work ------------------------------------------------------------------------------------------------------------
def warm(found: Plan, begin_for_s: float | None = None, told: Callable[[], None] = lambda: None) -> Summary:
    """Ask what is missing, at most four at once; `told` is called after each. New questions are begun for `begin_for_s`
    seconds, until a limit is full, or until several in a row failed. `CannotWarm` if another warm-up is under way."""
    summary = Summary(found.questions, found.questions - len(found.missing))
    until = None if begin_for_s is None else time.monotonic() + begin_for_s
    todo = list(found.missing.items())
    failures = 0
    app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]
    with _alone() as still_alone, ThreadPoolExecutor(AT_ONCE, "warm-up") as pool:
        under_way: set[Future[_Asked]] = set()
        while todo or under_way:
            while todo and len(under_way) < AT_ONCE and not summary.stopped and (until is None or time.monotonic() < until):
                name, question = todo.pop(0)
                under_way.add(pool.submit(_in_context, app, found.person_id, name, question))
            if not under_way:
                break
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for each in done:
                asked = each.result()
                summary.fates[asked.fate] += 1
                summary.cost_microusd += asked.cost_microusd
                failures = failures + 1 if asked.fate is Fate.FAILED else 0
                if asked.fate is Fate.REFUSED:
                    _pause(asked.resets_at)
                    summary.stopped = asked.why
                elif failures >= _FAILURES_IN_A_ROW:
                    summary.stopped = f"{failures} questions in a row failed ({asked.why})."
                told()
            if not still_alone():
                summary.stopped = summary.stopped or "Redis was away, or another warm-up has begun."
    summary.left = len(todo)
    return summary


@contextmanager
def _alone() -> Iterator[Callable[[], bool]]:
    """One warm-up at a time on all machines. What is yielded prolongs the lock, and says whether it is still ours."""
    # Longer than one question can take; a warm-up that died is in nobody's way for longer.
    lock = queue_redis().lock(_LOCK, timeout=job_timeout_s() + 30, blocking=False, thread_local=False)

    def prolong() -> bool:
        try:
            return bool(lock.reacquire())
        except (LockError, redis.RedisError):
            return False

    try:
        if not lock.acquire():
            raise CannotWarm("Another warm-up is under way: wait for its end.")
    except redis.RedisError as exc:
        raise CannotWarm("The queue (Redis) is away, and answers are kept there: start Switchhook.") from exc
    try:
        yield prolong
    finally:
        try:
            lock.release()
        except (LockError, redis.RedisError):
            log.debug("the lock of the warm-up was not ours any more")


def _in_context(app: Flask, person_id: uuid.UUID, name: str, question: str) -> _Asked:
    with app.app_context():
        try:
            asked = _ask(person_id, name, question)
        except Exception as exc:
            log.error("a question of the warm-up failed: %s\n%s", type(exc).__name__, frames(exc))
            asked = _Asked(Fate.FAILED, why=type(exc).__name__)
        if asked.fate in (Fate.NOT_KEPT, Fate.FAILED):
            _remember_as_vain(name, _VAIN_S if asked.fate is Fate.NOT_KEPT else _FAILED_S)
        return asked


def _ask(person_id: uuid.UUID, name: str, question: str) -> _Asked:
    try:
        admission = admit(Intake(MEDIUM, question, OPERATION, person_id, new_conversation=True))
    except LimitReached as exc:
        return _Asked(Fate.REFUSED, why=exc.message, resets_at=exc.resets_at)
    except Refusal as exc:
        return _Asked(Fate.REFUSED, why=exc.message)
    assert admission.request_id is not None
    assert admission.conversation_id is not None
    # A worker may be quicker: the request is queued as any other.
    execute(admission.request_id)
    row = _ended(admission.request_id)
    _close(admission.conversation_id)
    if row.status != RequestStatus.COMPLETED:
        return _Asked(Fate.FAILED, row.cost_microusd, row.error_code or row.status)
    if row.cached:
        return _Asked(Fate.FREE)
    return _Asked(Fate.ANSWERED if kept.are_there([name])[0] else Fate.NOT_KEPT, row.cost_microusd)


@dataclass(frozen=True, slots=True)
class _Row:
    status: str
    cached: bool
    cost_microusd: int
    error_code: str | None


def _ended(request_id: uuid.UUID) -> _Row:
    """The request at its end; as it is when no request can still be at work."""
    query = select(Request.status, Request.cached, Request.cost_microusd, Request.error_code).where(Request.id == request_id)
    until = time.monotonic() + job_timeout_s()
    while True:
        with reading() as connection:
            row = _Row(**connection.execute(query).one()._asdict())
        if row.status in ENDED or time.monotonic() >= until:
            return row
        time.sleep(_POLL_S)


def _close(conversation_id: uuid.UUID) -> None:
    """Close the conversation: the administrator's next text message must not go on in it."""
    with writing() as connection:
        connection.execute(update(Conversation).where(Conversation.id == conversation_id).values(active=False))


def _remember_as_vain(name: str, seconds: int) -> None:
    try:
        queue_redis().set(_vain(name), "1", ex=seconds)
    except redis.RedisError:
        log.debug("a question in vain cannot be remembered: Redis is away")


def _pause(resets_at: datetime | None) -> None:
    """Leave the scheduler's warm-up alone until a limit has room again: each refusal is a row."""
    wait_s = (resets_at - now()).total_seconds() if resets_at else _FAILED_S
    try:
        queue_redis().set(_PAUSED, "1", ex=int(min(max(wait_s, LOOK_S), _VAIN_S)))
    except redis.RedisError:
        log.debug("the warm-up cannot be paused: Redis is away")
