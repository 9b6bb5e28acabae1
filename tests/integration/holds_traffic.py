"""A process of many threads that take, settle, top up, give back and let expire at random: `run` is started by multiprocessing,
keeps its own books of what it did, and hands them back."""

from __future__ import annotations

import random
import threading
import time
import traceback
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection

from tests.conftest import make_settings
from webapp import create_app
from webapp.contracts.limits import Dimension, Limit, Window
from webapp.extensions import db, now, reading, writing
from webapp.models import Hold, Person, Request, RequestStatus
from webapp.models.columns import new_id
from webapp.quota import holds
from webapp.quota.extension import extend
from webapp.quota.holds import NoRoom

THREADS = 16
OVERDRAWN = "overdrawn:"
"""Begins the subjects of which more is used than was held, as when a vendor counts more than was estimated."""
ACME = "acme"
WANTED = ("taken", "refused", "settled", "given back", "noted", "topped up", "not topped up", "released", "expired")
"""What has to take place, or nothing is proven."""
_SENDERS = 6
_SLOW_S = 30.0
_AMOUNTS = {Dimension.REQUESTS: 1, Dimension.TOKENS: 40, Dimension.COST: 300, Dimension.CREDITS: 8}
_EPOCH_S = 1.5
_DAY, _MONTH, _HOUR = Window.DAY, Window.MONTH, Window.HOUR


@dataclass(slots=True)
class Account:
    """What one process did."""

    did: Counter[str] = field(default_factory=Counter)
    used: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (subject, name): what its own settlements, notes and releases have used."""
    faults: list[str] = field(default_factory=list)


def limits_of(sender: int, epoch: int) -> list[Limit]:
    """What applies to a sender: alone, in their organization, at one provider, and where more is used than was held. New
    subjects every epoch, so that counters that nobody has yet are raced for, too."""
    person, organization = f"person:{sender}.{epoch}", f"organization:{sender % 2}.{epoch}"
    small = (1, 2, 3, 7, 40, 10**6)[sender]
    return [
        Limit(person, "messages", Dimension.REQUESTS, _HOUR, small, ""),
        Limit(person, "tokens", Dimension.TOKENS, _MONTH, 45 * small, ""),
        Limit(organization, "cost", Dimension.COST, _DAY, (1500, 10**12)[sender % 2], ""),
        Limit(organization, "credits", Dimension.CREDITS, _MONTH, (10**12, 100)[sender % 2], ""),
        Limit(organization, "at acme", Dimension.TOKENS, _DAY, 400, "", ACME),
        Limit(f"{OVERDRAWN}{sender}.{epoch}", "tokens", Dimension.TOKENS, _DAY, 10**6, ""),
    ]


def run(database_url: str, folder: str, seed: int, seconds: float, together: Barrier, answers: Queue[Account]) -> None:
    """Do as `seed` says for so long, from when all processes are there, and put the account into `answers`."""
    account, guard = Account(), threading.Lock()
    try:
        app = create_app(make_settings(Path(folder), "unix:///nowhere", database_url=database_url))
        with app.app_context(), reading() as connection:
            person, organization = connection.execute(select(Person.id, Person.organization_id)).tuples().first() or _nobody()
        together.wait(120)
        until = time.monotonic() + seconds

        def thread(number: int) -> None:
            with app.app_context():
                _Thread(random.Random(seed * 1000 + number), account, guard, person, organization).go(until)
                db.session.remove()

        threads = [threading.Thread(target=thread, args=(number,)) for number in range(THREADS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        with app.app_context():
            db.engine.dispose()
    except Exception:
        account.faults.append(traceback.format_exc())
    answers.put(account)


def _nobody() -> Any:
    raise LookupError("the administrator is there")


class _Thread:
    def __init__(
        self, chance: random.Random, account: Account, guard: threading.Lock, person: uuid.UUID, organization: uuid.UUID
    ) -> None:
        self.chance, self.account, self.guard = chance, account, guard
        self.person, self.organization = person, organization

    def go(self, until: float) -> None:
        steps = [self.take] * 5 + [self.settle] * 5 + [self.top_up, self.reserve, self.expire]
        while time.monotonic() < until or (self.too_little() and time.monotonic() < until + _SLOW_S):
            step = self.chance.choice(steps)
            try:
                self.tell(*step())
            except Exception as exc:
                what = getattr(exc, "orig", exc)
                self.account.faults.append(f"{step.__name__}: {type(what).__name__}: {traceback.format_exc()[-3000:]}")
                return

    def too_little(self) -> bool:
        """On a busy machine it takes longer until everything took place."""
        return not self.account.faults and any(self.account.did[what] < 3 for what in WANTED)

    def tell(self, what: str, used: Counter[tuple[str, str]] | None = None) -> None:
        with self.guard:
            self.account.did[what] += 1
            self.account.used.update(used or {})

    # -- steps: each gives what it did, and what it used -------------------------------------------------------------
    def take(self) -> tuple[str, Counter[tuple[str, str]] | None]:
        """Take some of a sender's limits, as admission does; perhaps note that something is used already."""
        mine = limits_of(self.chance.randrange(_SENDERS), int(time.time() / _EPOCH_S))
        wanted = holds.needs(self.chance.sample(mine, self.chance.randint(1, len(mine))), _AMOUNTS, now(), "UTC")
        request_id = new_id()
        try:
            with writing() as connection:
                self._store(connection, request_id)
                holds.take(connection, request_id, wanted)
        except NoRoom:
            return "refused", None
        if self.chance.random() < 0.2:
            self.tell(*self.note(request_id))
        return "taken", None

    def note(self, request_id: uuid.UUID) -> tuple[str, Counter[tuple[str, str]]]:
        used = {dimension: amount // 4 for dimension, amount in _AMOUNTS.items()}
        with writing() as connection:
            self._lock(connection, request_id)
            holds.note(connection, request_id, used, {ACME: used})
            # Whoever settled it before left nothing open.
            still = connection.execute(
                select(Hold.subject, Hold.name, Hold.dimension).where(Hold.request_id == request_id, Hold.settled_at.is_(None))
            ).all()
        return "noted", Counter({(row.subject, row.name): used[Dimension(row.dimension)] for row in still})

    def settle(self) -> tuple[str, Counter[tuple[str, str]] | None]:
        """End somebody's request, or give it back; another process may be about to do the same."""
        request_id = self._open_request()
        if request_id is None:
            return "found nothing to settle", None
        share = self.chance.choice((0, 0, 0, 0.1, 0.6))
        used = {dimension: round(amount * share) for dimension, amount in _AMOUNTS.items()}
        said: Counter[tuple[str, str]] = Counter()
        for _ in range(self.chance.choice((1, 1, 2))):
            with writing() as connection:
                self._lock(connection, request_id)
                if share:
                    more = self._overdraw(connection, request_id, used)
                    ended = holds.settle(connection, request_id, more, now(), by="test", why="ended", at_providers={ACME: used})
                else:
                    more = used
                    ended = holds.settle(connection, request_id, {}, now(), by="test", why="given back")
            if said and ended:
                raise AssertionError("a request was settled twice by one caller")
            for each in ended:
                spent = used if each.name == "at acme" else more
                said[each.subject, each.name] += spent[each.dimension]
            if not ended:
                self.tell("settled for nothing")
        return "given back" if not share else "settled", said

    def _lock(self, connection: Connection, request_id: uuid.UUID) -> None:
        """The request's row first, which whoever changes its holds has changed before."""
        connection.execute(select(Request.id).where(Request.id == request_id).with_for_update(key_share=True))

    def _overdraw(self, connection: Connection, request_id: uuid.UUID, used: dict[Dimension, int]) -> dict[Dimension, int]:
        """Three times the tokens where the request's only limit of tokens may be overdrawn."""
        subjects = connection.execute(
            select(Hold.subject).where(Hold.request_id == request_id, Hold.dimension == Dimension.TOKENS.value)
        ).scalars()
        if all(subject.startswith(OVERDRAWN) for subject in subjects):
            return used | {Dimension.TOKENS: 3 * _AMOUNTS[Dimension.TOKENS]}
        return used

    def top_up(self) -> tuple[str, None]:
        request_id = self._open_request()
        if request_id is None:
            return "found nothing to top up", None
        following = {Dimension.TOKENS: _AMOUNTS[Dimension.TOKENS] + self.chance.randint(1, 60)}
        try:
            with writing() as connection:
                self._lock(connection, request_id)
                extend(connection, request_id, used={}, used_there={}, following=following, provider=ACME)
        except NoRoom:
            return "not topped up", None
        return "topped up", None

    def reserve(self) -> tuple[str, Counter[tuple[str, str]] | None]:
        """Reserve without a request; a third of those who do so die before they release it."""
        limit = Limit(f"house:{int(time.time() / _EPOCH_S)}", "calls", Dimension.COST, _DAY, 2000, "")
        (need,) = holds.needs([limit], {Dimension.COST: 300}, now(), "UTC")
        lives = timedelta(seconds=self.chance.choice((0.0, 0.05, 60)))
        try:
            with writing() as connection:
                hold_id = holds.reserve(connection, need, now() + lives)
        except NoRoom:
            return "refused", None
        if self.chance.random() < 1 / 3:
            return "died with a reservation", None
        # If it has expired meanwhile, its room may be somebody else's: what is used then may pass the limit.
        used = self.chance.choice((0, 300)) if lives.total_seconds() > 1 else 0
        with writing() as connection:
            holds.release(connection, hold_id, need, used, now(), "test")
        return "released", Counter({(limit.subject, limit.name): used})

    def expire(self) -> tuple[str, None]:
        with writing() as connection:
            lost = holds.expire(connection, now())
        return ("expired" if lost else "found nothing expired"), None

    # -- rows --------------------------------------------------------------------------------------------------------
    def _store(self, connection: Connection, request_id: uuid.UUID) -> None:
        connection.execute(
            insert(Request),
            {
                "id": request_id,
                "person_id": self.person,
                "organization_id": self.organization,
                "channel": "sms",
                "operation": "chat",
                "prompt": "x",
                "status": RequestStatus.QUEUED,
                "max_input_tokens": 1,
                "max_output_tokens": 1,
                "queue": "low",
                "priority": 20,
                "created_at": now(),
            },
        )

    def _open_request(self) -> uuid.UUID | None:
        """Any request that holds something, whoever took it: the oldest few, so that several want the same."""
        query = select(Hold.request_id, func.min(Hold.id)).where(Hold.settled_at.is_(None), Hold.request_id.is_not(None))
        with reading() as connection:
            found = connection.execute(query.group_by(Hold.request_id).order_by(func.min(Hold.id)).limit(30)).all()
        return self.chance.choice(found).request_id if found else None
