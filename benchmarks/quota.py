"""Taking and settling holds, beside two bare conditional UPDATEs of the same counters and beside the same SQL written by hand;
the whole way of a request, beside the very statements that it sends; and one organization's counter that everybody wants."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from typing import cast

from flask import Flask, current_app
from sqlalchemy import Connection, bindparam, insert, select, text
from sqlalchemy.orm import Session

from benchmarks.by_hand import Transcript, known_ids, take_and_settle
from benchmarks.place import Place
from benchmarks.report import Report, median, median_ratio
from webapp import queues
from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import UTCDateTime, db, now, queue_redis, reading, writing
from webapp.models import Identity, Person, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.pipeline.admit import admit
from webapp.pipeline.claims import claim
from webapp.pipeline.endings import Call, Ending, Used
from webapp.pipeline.intake import Intake
from webapp.pipeline.settle import settle
from webapp.quota import holds
from webapp.quota.holds import Need

SUBJECTS = 50
_MAXIMUM = 10**12
_LIMITS = (("messages", Dimension.REQUESTS), ("tokens", Dimension.TOKENS), ("cost_microusd", Dimension.COST))
_HELD = {Dimension.REQUESTS: 1, Dimension.TOKENS: 900, Dimension.COST: 4000}
_USED = {Dimension.REQUESTS: 1, Dimension.TOKENS: 310, Dimension.COST: 1200}

_KEY = "subject = :subject AND name = :name AND period = :period AND starts_at = :starts_at"
_bare_take = text(f"UPDATE limit_counter SET held = held + :held WHERE {_KEY} AND used + held + :held <= :maximum").bindparams(
    bindparam("starts_at", type_=UTCDateTime)
)
_bare_settle = text(
    f"UPDATE limit_counter SET held = held - :held, used = used + :used WHERE {_KEY} AND held >= :held"
).bindparams(bindparam("starts_at", type_=UTCDateTime))


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared: how many limits, and whether taking and settling are one transaction or two."""

    limits: int
    transactions: int

    @property
    def name(self) -> str:
        limits = "1 limit" if self.limits == 1 else f"{self.limits} limits"
        return f"{limits}, {self.transactions} transaction{'s' if self.transactions > 1 else ''}"


CASES = (Case(1, 1), Case(3, 1), Case(3, 2))
THREADS = 16


def run(place: Place, report: Report, *, quick: bool) -> None:
    """One transaction is the bar; two are what the product does, since a vendor answers in between."""
    kinds = ["sqlite", "postgresql"] if place.has_postgres() else ["sqlite"]
    for kind in kinds:
        report.heading(f"quota: take and settle, one thread, {kind}")
        rounds, repeats = (3, 100) if quick else (9, 300)
        with place.app(place.database(kind)):
            requests = cycle(_requests(rounds * repeats))
            ratios = _cases(report, requests, rounds, repeats)
            by_hand = _beside_hand(report, rounds, repeats)
        for case in CASES[:2]:
            report.at_least(f"quota: {kind}, {case.name}, of the floor's", ratios[case], 0.5, "%")
        report.at_least(f"quota: {kind}, 3 limits, of the same SQL by hand", by_hand, 0.6, "%")
        report.heading(f"quota: a request admitted, claimed and settled, one thread, {kind}")
        with place.app(place.database(kind, SUBJECTS)):
            road = _road(report, rounds, repeats // 3)
        report.at_least(f"quota: {kind}, the whole way, of its own SQL sent by hand", road, 0.6, "%")
    if place.has_postgres():
        report.heading(f"quota: one organization's counter, {THREADS} threads, postgresql")
        with place.app(place.database("postgresql")):
            hot = _hot(report, 2 if quick else 8)
        report.at_least("quota: requests/s of one organization", hot, 300)
    if len(kinds) == 1:
        report.note("  PostgreSQL: left out, there is no wheel of it for this platform")


def _cases(report: Report, requests: Iterator[uuid.UUID], rounds: int, repeats: int) -> dict[Case, float]:
    rows, ratios = [], {}
    for case in CASES:
        ours, floors = _rounds(case, requests, rounds, repeats)
        ratios[case] = median_ratio(ours, floors)
        rows.append([case.name, f"{median(ours):,.0f}", f"{median(floors):,.0f}", f"{100 * ratios[case]:.0f} %"])
    report.table([f"per second, median of {rounds}", "Switchhook", "floor", "share"], rows)
    return ratios


def _rounds(case: Case, requests: Iterator[uuid.UUID], rounds: int, repeats: int) -> tuple[list[float], list[float]]:
    """Times per second, ours and the floor's, a figure for each round."""
    subjects = cycle([_needs(number, case.limits) for number in range(SUBJECTS)])
    for _ in range(SUBJECTS):
        _ours(case, next(subjects), next(requests))  # The floor needs counters that are there.
    ours, floors = [], []
    for _ in range(rounds):
        ours.append(_per_s(repeats, lambda: _ours(case, next(subjects), next(requests))))
        floors.append(_per_s(repeats, lambda: _bare(case, next(subjects))))
    return ours, floors


def _beside_hand(report: Report, rounds: int, repeats: int) -> float:
    """Three limits in one transaction, beside the same statements in one function with nothing around them."""
    requests = iter(_requests(2 * rounds * repeats + 2 * SUBJECTS))
    subjects = cycle([_needs(number, 3) for number in range(SUBJECTS)])
    case = Case(3, 1)

    def by_hand() -> None:
        with writing() as connection:
            take_and_settle(connection, next(requests), next(subjects), _USED)

    for _ in range(SUBJECTS):
        _ours(case, next(subjects), next(requests))
        by_hand()
    ours, floors = [], []
    for _ in range(rounds):
        ours.append(_per_s(repeats, lambda: _ours(case, next(subjects), next(requests))))
        floors.append(_per_s(repeats, by_hand))
    share = median_ratio(ours, floors)
    row = [case.name, f"{median(ours):,.0f}", f"{median(floors):,.0f}", f"{100 * share:.0f} %"]
    report.table([f"per second, median of {rounds}", "Switchhook", "by hand", "share"], [row])
    return share


def _road(report: Report, rounds: int, repeats: int) -> float:
    """Admission with three limits, the queue, the claim and the end, beside what the three transactions send, taken down from a
    request of each person and sent again by the driver, and the queue."""
    with reading() as connection:
        people = list(connection.execute(select(Identity.person_id).where(Identity.medium == "sms")).scalars())
    for person in people:
        _through(person)  # Each has a conversation then, which goes on.
    known, transcripts = known_ids(), []
    for person in people:
        transcripts.append(Transcript(known))
        with transcripts[-1].taken_down():
            _through(person)
    everybody, floor = cycle(people), cycle(transcripts)

    def by_hand() -> None:
        next(floor).send_again()
        queues.put(queue_redis(), queues.EXECUTE, [str(new_id())], queues.NORMAL)

    ours, floors = [], []
    for _ in range(rounds):
        ours.append(_per_s(repeats, lambda: _through(next(everybody))))
        floors.append(_per_s(repeats, by_hand))
        queue_redis().flushdb()
    share = median_ratio(ours, floors)
    statements = sum(len(sent) for _, sent in transcripts[0].transactions)
    row = [f"{statements} statements", f"{median(ours):,.0f}", f"{median(floors):,.0f}", f"{100 * share:.0f} %"]
    report.table([f"per second, median of {rounds}", "Switchhook", "by hand", "share"], [row])
    return share


def _through(person: uuid.UUID) -> None:
    """A request from the door to its end; the vendor's part is made up."""
    admitted = admit(Intake(medium="web", text="hello, is it me you are looking for", person_id=person))
    assert admitted.request_id is not None
    taken = claim(admitted.request_id)
    assert taken is not None, "nobody else is there to take it"
    used = Used("openai", "gpt-4.1-mini", 210, 100, cost_microusd=1200)
    settle(taken.id, taken.claim, Ending(RequestStatus.COMPLETED, (Call(used),), answer="yes, it is", finish="stop"))


def _hot(report: Report, seconds: float) -> float:
    """Requests per second, each taken and settled in two transactions, on two limits of a person and one of the organization of
    them all."""
    app = cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]
    shared = Limit("organization:bench", "tokens", Dimension.TOKENS, Window.MONTH, _MAXIMUM, "tokens")
    requests = _requests(int(seconds * 3000))
    guard, done = threading.Lock(), [0] * THREADS
    until = time.perf_counter() + seconds

    def work(number: int) -> None:
        person = f"person:bench-{number}"
        own = [Limit(person, name, of, Window.MONTH, _MAXIMUM, name) for name, of in _LIMITS[::2]]
        with app.app_context():
            while time.perf_counter() < until:
                with guard:
                    request_id = requests.pop()
                needs = holds.needs([*own, shared], _HELD, now(), "UTC")
                with writing() as connection:
                    holds.take(connection, request_id, needs)
                with writing() as connection:
                    holds.settle(connection, request_id, _USED, now(), by="bench", why="ended")
                done[number] += 1
            db.session.remove()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    per_s = sum(done) / seconds
    report.table(["", "requests/s"], [[f"{THREADS} threads, 3 limits, 2 transactions each", f"{per_s:,.0f}"]])
    return per_s


def _per_s(repeats: int, step: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return repeats / (time.perf_counter() - began)


def _ours(case: Case, needs: list[Need], request_id: uuid.UUID) -> None:
    with writing() as connection:
        holds.take(connection, request_id, needs)
        if case.transactions == 1:
            holds.settle(connection, request_id, _USED, now(), by="bench", why="ended")
    if case.transactions == 2:
        with writing() as connection:
            holds.settle(connection, request_id, _USED, now(), by="bench", why="ended")


def _bare(case: Case, needs: list[Need]) -> None:
    with writing() as connection:
        for need in needs:
            _changed(connection, _bare_take, {"held": need.amount, "maximum": need.limit.maximum} | _key(need))
        if case.transactions == 1:
            _settle_bare(connection, needs)
    if case.transactions == 2:
        with writing() as connection:
            _settle_bare(connection, needs)


def _settle_bare(connection: Connection, needs: list[Need]) -> None:
    for need in needs:
        used = _USED[need.limit.dimension]
        _changed(connection, _bare_settle, {"held": need.amount, "used": used} | _key(need))


def _changed(connection: Connection, statement: object, values: dict[str, object]) -> None:
    if connection.execute(statement, values).rowcount != 1:  # type: ignore[call-overload]
        raise RuntimeError("the floor changed no counter")


def _key(need: Need) -> dict[str, object]:
    limit = need.limit
    return {"subject": limit.subject, "name": limit.name, "period": limit.window.value, "starts_at": need.starts_at}


def _needs(number: int, limits: int) -> list[Need]:
    made = [Limit(f"person:bench-{number}", name, of, Window.MONTH, _MAXIMUM, name) for name, of in _LIMITS[-limits:]]
    return holds.needs(made, _HELD, now(), "UTC")


def _requests(count: int) -> list[uuid.UUID]:
    """Rows for the holds to refer to."""
    with writing() as connection, Session(bind=connection) as session:
        person = session.query(Person).first()
        assert person is not None, "the administrator is there"
        at: datetime = now()
        made = [
            {
                "id": new_id(),
                "person_id": person.id,
                "organization_id": person.organization_id,
                "channel": "web",
                "operation": "chat",
                "prompt": "hello",
                "status": RequestStatus.COMPLETED,
                "max_input_tokens": 100,
                "max_output_tokens": 800,
                "queue": "normal",
                "priority": 50,
                "created_at": at,
                "ended_at": at,
            }
            for _ in range(count)
        ]
        connection.execute(insert(Request), made)
    return [row["id"] for row in made]  # type: ignore[misc]
