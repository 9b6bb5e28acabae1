"""What has to be true at the end, and what the books say beside what the vendor and the carrier say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select

from tests.balance import counters_off
from tests.fault import words
from tests.support import assert_books_balance
from webapp.extensions import reading
from webapp.models import Attempt, DeadLetter, Delivery, Direction, Hold, LedgerEntry, Request, RequestStatus
from webapp.models.requests import ENDED

_ON_THEIR_WAY = ("pending", "sending", "unknown")
_LOST = ("lost", "handed back")
_SHOWN = 8


@dataclass(slots=True)
class Verdict:
    """Figures for the table, and what was broken."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)

    def figure(self, name: str, value: object) -> None:
        self.figures.append((name, str(value)))

    def equal(self, name: str, found: object, wanted: object) -> None:
        """A promise about a figure."""
        self.figure(name, found)
        if found != wanted:
            self.breaches.append(f"{name}: {found}, and should be {wanted}")

    def none(self, name: str, found: Iterable[object]) -> None:
        """A promise that there is nothing of a kind."""
        found = list(found)
        self.figure(name, len(found))
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            self.breaches.append(f"{name}: {'; '.join(str(each) for each in found[:_SHOWN])}{more}")


def still_going() -> int:
    """How many requests have not ended and how many messages are not out, as one number."""
    with reading() as c:
        ended = Request.status.in_([status.value for status in ENDED])
        requests = c.execute(select(func.count()).select_from(Request).where(~ended)).scalar_one()
        out = (Delivery.direction == Direction.OUT, Delivery.status.in_(_ON_THEIR_WAY))
        return int(requests) + int(c.execute(select(func.count()).select_from(Delivery).where(*out)).scalar_one())


def judge(accepted: int, calls: list[dict[str, Any]], sent: list[dict[str, str]], unheard: int) -> Verdict:
    """Compare what was accepted with the requests, the carrier's messages, the vendor's calls and the books."""
    verdict = Verdict()
    with reading() as c:
        requests = c.execute(select(Request.id, Request.prompt, Request.status, Request.error_code, Request.attempts)).all()
    numbers = {row.id: words.number_in(row.prompt) for row in requests}
    _requests(verdict, accepted, requests, numbers)
    _messages(verdict, accepted, sent, unheard)
    _calls(verdict, {call["id"]: call for call in calls}, numbers)
    _counters(verdict)
    return verdict


def _requests(verdict: Verdict, accepted: int, requests: Any, numbers: dict[Any, int | None]) -> None:
    verdict.figure("messages accepted (webhook answered 200)", accepted)
    verdict.equal("requests", len(requests), accepted)
    verdict.none("messages with several requests", (n for n, times in Counter(numbers.values()).items() if times > 1))
    verdict.none("requests unfinished", (row.id for row in requests if row.status not in ENDED))
    bad = [row for row in requests if row.status in ENDED and row.status != RequestStatus.COMPLETED]
    verdict.none("requests ended otherwise than answered", (f"{row.id} {row.status} {row.error_code}" for row in bad))
    verdict.figure("executions begun", sum(row.attempts for row in requests))
    verdict.figure("most executions of one request", max((row.attempts for row in requests), default=0))
    with reading() as c:
        verdict.none("requests set aside", c.execute(select(DeadLetter.request_id)).scalars())


def _messages(verdict: Verdict, accepted: int, sent: list[dict[str, str]], unheard: int) -> None:
    marks = Counter(words.number_in(message["body"]) for message in sent)
    verdict.figure("texts the carrier took", len(sent))
    verdict.figure("texts of which nobody heard that they were taken", unheard)
    verdict.none("texts that are no answer", (m["body"][:60] for m in sent if words.number_in(m["body"]) is None))
    verdict.none(
        "messages answered more than once", (f"{n}: {times}×" for n, times in marks.items() if times > 1 and n is not None)
    )
    verdict.equal("messages answered", len(marks.keys() - {None}), accepted)
    wrong = (
        message["to"]
        for message in sent
        if (number := words.number_in(message["body"])) is not None and words.phone(number % 100) != message["to"]
    )
    verdict.none("answers to somebody else", wrong)
    with reading() as c:
        out = Delivery.direction == Direction.OUT
        states = dict(c.execute(select(Delivery.status, func.count()).where(out).group_by(Delivery.status)).tuples().all())
        several = select(Delivery.request_id).where(out).group_by(Delivery.request_id).having(func.count() > 1)
        verdict.none("requests with several answers", c.execute(several).scalars())
    verdict.none("texts on their way or of unknown fate", (f"{s}: {n}" for s, n in states.items() if s in _ON_THEIR_WAY))


def _calls(verdict: Verdict, calls: dict[str, dict[str, Any]], numbers: dict[Any, int | None]) -> None:
    """The ledger beside the vendor's own count, call by call."""
    entry, attempt = LedgerEntry, Attempt
    with reading() as c:
        columns = (attempt.vendor_request_id, attempt.request_id, entry.payer, entry.estimated)
        tokens = (entry.input_tokens, entry.output_tokens)
        booked = c.execute(select(*columns, *tokens).join(attempt, attempt.id == entry.attempt_id)).all()
        outcomes = c.execute(select(attempt.request_id, attempt.outcome).where(attempt.outcome.in_(_LOST))).all()
        kept = c.execute(select(Request.id).where(Request.cached)).scalars().all()
    lost = Counter(numbers[row.request_id] for row in outcomes)
    finished = {call_id: call for call_id, call in calls.items() if call["finished"]}
    known = {row.vendor_request_id for row in booked}
    missing: dict[int, list[str]] = defaultdict(list)
    for call_id, call in calls.items():
        if call_id not in known:
            missing[call["number"]].append(call_id)
    verdict.figure("vendor calls begun", len(calls))
    verdict.figure("vendor calls answered to the end", len(finished))
    verdict.figure("ledger entries", len(booked))
    verdict.figure("… of these on the house", sum(row.payer == "house" for row in booked))
    verdict.figure("executions lost with their process", sum(lost.values()))
    verdict.figure("vendor calls without a ledger entry", sum(map(len, missing.values())))
    verdict.figure("… of these answered to the end", len(finished.keys() - known))
    verdict.none(
        "calls that no lost execution accounts for",
        (f"message {n}: {ids}" for n, ids in missing.items() if len(ids) > lost[n]),
    )
    verdict.none("ledger entries without a vendor call", known - calls.keys())
    verdict.none(
        "calls entered twice", (i for i, times in Counter(row.vendor_request_id for row in booked).items() if times > 1)
    )
    verdict.none(
        "entries that differ from the vendor's count",
        (
            f"{row.vendor_request_id}: {(row.input_tokens, row.output_tokens)}, the vendor {counted}"
            for row in booked
            if (call := finished.get(row.vendor_request_id)) and not row.estimated
            if (counted := (call["input_tokens"], call["output_tokens"])) != (row.input_tokens, row.output_tokens)
        ),
    )
    charged = Counter(numbers[row.request_id] for row in booked if row.payer == "person")
    # An execution that dies between keeping an answer and writing it down leaves the answer to the next one, for nothing.
    free = {numbers[request_id] for request_id in kept}
    verdict.figure("answers that a lost execution had kept (free)", len(free))
    verdict.none("requests charged other than once", (n for n in numbers.values() if charged[n] != (n not in free)))


def _counters(verdict: Verdict) -> None:
    with reading() as c:
        verdict.none("counters that differ from their receipts", counters_off(c))
        verdict.none("holds left", c.execute(select(Hold.id).where(Hold.settled_at.is_(None))).scalars())
    try:
        assert_books_balance()
        verdict.figure("ledger = requests = counters", "yes")
    except AssertionError as exc:
        verdict.figure("ledger = requests = counters", "NO")
        verdict.breaches.append(f"the books do not balance: {exc}")
