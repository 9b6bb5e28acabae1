"""Execute: claim, sort, route, call, publish each piece; settled whatever happens.

No transaction is open while a vendor thinks.
"""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from webapp.contracts.calls import ToolPiece
from webapp.contracts.errors import LimitReached, ProviderError, TimedOut
from webapp.contracts.pictures import Progress
from webapp.contracts.segments import economical, fit
from webapp.contracts.texts import frames
from webapp.extensions import current_settings, reading
from webapp.interrupts import shielded
from webapp.models import RequestStatus
from webapp.models.connections import Unusual
from webapp.pipeline import books, charges, lease, quick, webhooks, words
from webapp.pipeline.claims import Claimed, claim
from webapp.pipeline.endings import Call, Ending, Used
from webapp.pipeline.image_work import ImageWork
from webapp.pipeline.plain import plain_text
from webapp.pipeline.settle import Settled, after_commit, settle, settle_unowned
from webapp.pipeline.stream import Publisher
from webapp.pipeline.text_work import TextWork
from webapp.pipeline.work import Work
from webapp.registry import current_registry
from webapp.routing.route import IMAGES

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 3600.0
"""For how long a vendor's wish to be left alone keeps a request from being tried again."""


def execute(request_id: uuid.UUID) -> bool:
    """Execute a queued request to its end. False if it was not there to be taken."""
    taken = claim(request_id)
    if taken is None:
        return False
    for _ in run(taken, patient=True):
        pass
    return True


class Audience(Protocol):
    """Whom the pieces of an answer are shown to while they come."""

    def piece(self, text: str) -> bool:
        """Show a piece. True if somebody has asked meanwhile to stop."""

    def end(self, status: str) -> None:
        """Show that the request has ended."""


def run(
    taken: Claimed,
    *,
    patient: bool = False,
    work: Work | None = None,
    audience: Audience | None = None,
    note: Callable[[Ending], None] = lambda _: None,
) -> Iterator[str | ToolPiece | Progress]:
    """Yield the answer's pieces as they come, and a picture's progress. Ends settled: also when the vendors fail, time runs
    out, or the reader goes. A `patient` execution that fails for a reason that may pass puts the request back to the queue
    instead, as often as the settings allow. `note` hears how it ended, once that is on the books."""
    if audience is None:
        audience = Publisher(taken.id, taken.attempt)
    if work is None:
        work = ImageWork(taken) if taken.operation == IMAGES else TextWork(taken)
    end = _End(taken, work, audience, note, patient=patient)
    ending: Ending | None = None
    try:
        try:
            lease.begin(taken.claim)
            stopped = taken.cancel_asked_at is not None
            if not stopped:
                pieces = work.pieces()
                try:
                    for piece in pieces:
                        # Redis says it at once, the lease's thread within seconds, should Redis be away.
                        stopped = isinstance(piece, str) and audience.piece(piece)
                        yield piece
                        if stopped := stopped or work.stop_asked():
                            break
                finally:
                    pieces.close()
            ending = work.ended(stopped=stopped)
        except ProviderError as exc:
            ending = _stopped(work) if work.stop_asked() else _failed_by_vendor(exc, unread=not work.produced)
            log.warning("request %s failed: %s", taken.id, ending.error_code)
        except LimitReached as exc:
            ending = replace(_failed(exc.code, detail=exc.message), error_message=exc.message)
        except GeneratorExit:
            ending = _stopped(work)
            raise
        except BaseException as exc:
            # Also what ends the job rather than the request: RQ's time limit, a stop by command, a plugin that calls exit().
            code = TimedOut.code if type(exc).__name__ == "JobTimeoutException" else "internal"
            ending = _failed(code, detail=traceback.format_exc()[-8000:])
            log.error("request %s failed: %s\n%s", taken.id, type(exc).__name__, frames(exc))
            if code == TimedOut.code or not isinstance(exc, Exception):
                raise
        finally:
            end.settle(ending)
    finally:
        # The one exception that a job's limit raises may have come just before the end was shielded from it.
        end.settle(ending)
        end.tell()


class _End:
    """The end of an execution. It takes place once, and once it has begun nothing interrupts it."""

    def __init__(
        self, taken: Claimed, work: Work, audience: Audience, note: Callable[[Ending], None], *, patient: bool
    ) -> None:
        self._taken = taken
        self._patient = patient
        self._work = work
        self._audience = audience
        self._note = note
        self._begun = False
        self._settled: Settled | None = None

    def settle(self, ending: Ending | None) -> None:
        """Write down how the request ended, unless that has been done or tried, and let go of it whatever happens. None: it
        was ended before anybody could say how."""
        if self._begun:
            return
        taken = self._taken
        with shielded():
            self._begun = True
            try:
                ending = _recorded(taken, self._work, ending or _failed("internal"))
                self._settled = _quickly(taken, ending)
                if self._settled is None:
                    self._settled = settle(taken.id, taken.claim, ending, again_after_s=self._again_after_s(ending))
                if self._settled is not None:
                    ended = self._settled.ending if self._settled.again_at is None else None
                elif _unheard(taken, ending):
                    ended = ending
                else:
                    ended = None
                    settle_unowned(taken.id, taken.attempt, ending)
                if ended is not None:
                    self._note(ended)
                    self._audience.end(ended.status)
            finally:
                lease.end(taken.claim)

    def _again_after_s(self, ending: Ending) -> float | None:
        """After how many seconds the request is to be tried again, None if it has ended for good."""
        settings = current_settings()
        if not (self._patient and ending.may_pass and self._taken.retries < settings.job_retries):
            return None
        return max(settings.retry_wait_after_s(self._taken.retries), ending.not_within_s)

    def tell(self) -> None:
        """Send the answer on its way and tell the plugins. They take their time, so a job's limit counts again."""
        settled, self._settled = self._settled, None
        if settled is None:
            return
        try:
            if settled.again_at is None:
                self._work.settled(settled.ending)
        finally:
            after_commit(self._taken.id, settled, settled.ending)


def _quickly(taken: Claimed, ending: Ending) -> Settled | None:
    """Settle the usual end in the fewest statements; None for what has to go the general way."""
    webhooks.look()
    try:
        return quick.settled(taken, ending)
    except Unusual as exc:
        log.debug("settled in general: %s", exc)
    except Exception as exc:
        # What cannot be made a value of the database, of a plugin's or a vendor's. Nothing was changed, either.
        log.warning("request %s is settled in general: %s\n%s", taken.id, type(exc).__name__, frames(exc))
    return None


def _unheard(taken: Claimed, ending: Ending) -> bool:
    """Whether the request was settled as it ended, and only the database's word of it was lost on the way."""
    try:
        with reading() as connection:
            return books.ended_by(connection, taken.id, taken.attempt, ending.status)
    except SQLAlchemyError as exc:
        log.warning("it is not known whether request %s was settled: %s", taken.id, type(exc).__name__)
        return False


def _failed(code: str, *, detail: str = "") -> Ending:
    return Ending(RequestStatus.FAILED, error_code=code, error_message=words.failed(code), detail=detail)


def _failed_by_vendor(exc: ProviderError, *, unread: bool) -> Ending:
    try:
        failed = _failed(str(exc.code), detail=f"{exc.message} {exc.detail}".strip())
        asked_s = min(exc.retry_after_s or 0.0, _LONGEST_WAIT_S)
        return replace(failed, may_pass=unread and bool(exc.retryable), not_within_s=asked_s)
    except Exception as broken:
        # An error that a plugin has made without the words that belong to it.
        return _failed(ProviderError.code, detail=f"{type(exc).__name__}, whose message raised {type(broken).__name__}")


def _stopped(work: Work) -> Ending:
    try:
        return work.ended(stopped=True)
    except Exception as exc:
        log.error("what was produced before the stop cannot be told: %s\n%s", type(exc).__name__, frames(exc))
        return Ending(RequestStatus.CANCELLED, error_code="cancelled")


def _recorded(taken: Claimed, work: Work, ending: Ending) -> Ending:
    """The ending with all that belongs on the record. Never raises: a request whose end cannot be told has to end, too."""
    try:
        ending = work.recorded(ending)
    except BaseException as exc:
        # BaseException, because it runs plugins' code, on what plugins have given.
        log.error("the end of request %s cannot be recorded: %s\n%s", taken.id, type(exc).__name__, frames(exc))
        detail = f"{traceback.format_exc()[-7000:]}\n\nIt had ended: {ending.status} {ending.error_code}\n{ending.detail[:900]}"
        return replace(_failed("internal", detail=detail), calls=_charged_one_by_one(work))
    try:
        message = _as_message(taken, ending.answer) if taken.reply_channel else ""
        return replace(ending, reply_text=message) if message else ending
    except BaseException as exc:
        # It goes out as it is.
        log.error("the answer to request %s is not made shorter: %s\n%s", taken.id, type(exc).__name__, frames(exc))
        return ending


def _charged_one_by_one(work: Work) -> tuple[Call, ...]:
    """The calls with what can be told of them: without the count that cannot be read, or at least that they took place."""
    calls = list(work.house_calls)
    tried = work.calls.tried if work.calls else []
    for each in tried:
        produced = each is tried[-1] and work.produced
        for known in (each, replace(each, usage=None)):
            try:
                calls.append(charges.call_of(known, work.estimate, produced=produced))
                break
            except BaseException as exc:
                log.error("a call to %s cannot be charged as counted: %s", each.target.name, type(exc).__name__)
        else:
            used = Used(each.target.provider.name, each.target.model, estimated=True)
            calls.append(Call(used, each.outcome, each.started_at, each.ended_at))
    return tuple(calls)


def _as_message(taken: Claimed, answer: str | None) -> str:
    """The answer as its channel sends it: without Markdown, in as few segments as it can, not longer than one send takes."""
    channel = current_registry().channels.get(taken.reply_channel or "")
    if channel is None or not answer:
        return ""
    return fit(economical(plain_text(answer)), channel.max_chars)
