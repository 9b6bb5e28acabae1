"""Kept answers: one effect for each key, with any number of threads and processes, and whoever dies in the middle."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select, update

from tests.support import add_person
from webapp.extensions import now, reading, writing
from webapp.models import ApiAnswer
from webapp.services import kept_answers
from webapp.services.kept_answers import Begun, Kept, KeyInUse, KeyReused, NotKept

DIGEST = kept_answers.digest_of("POST", "/api/things", b"", b"{}")
ANSWER = Kept(201, (("Content-Type", "application/json"), ("Location", "/api/things/1")), b'{"token":"sh_secret"}')


@pytest.fixture
def alice(app: Flask) -> uuid.UUID:
    return add_person(email="alice@example.com")


def begun(person_id: uuid.UUID, key: str = "k", digest: str = DIGEST) -> Begun:
    found = kept_answers.begin(person_id, key, digest)
    assert isinstance(found, Begun)
    return found


def stored() -> list[Any]:
    with reading() as connection:
        return list(connection.execute(select(ApiAnswer.__table__).order_by(ApiAnswer.id)).all())


def put(**values: Any) -> None:
    with writing() as connection:
        connection.execute(update(ApiAnswer).values(**values))


def test_an_answer_is_given_again_to_the_same_call_only(alice: uuid.UUID) -> None:
    bob = add_person(email="bob@example.com")
    first = begun(alice)
    with pytest.raises(KeyInUse):
        kept_answers.begin(alice, "k", DIGEST)
    with pytest.raises(KeyReused):
        kept_answers.begin(alice, "k", kept_answers.digest_of("POST", "/api/other"))
    kept_answers.finish(first, ANSWER)
    assert kept_answers.begin(alice, "k", DIGEST) == ANSWER
    with pytest.raises(KeyReused):
        kept_answers.begin(alice, "k", kept_answers.digest_of("POST", "/api/other"))
    for fresh in (begun(bob), begun(alice, "K")):
        kept_answers.abandon(fresh, nothing_done=True)
    [row] = stored()
    # An answer may hold what is shown once: the database alone does not tell it.
    assert b"sh_secret" not in row.body
    put(body=row.body[:-1] + bytes([row.body[-1] ^ 1]))
    with pytest.raises(NotKept):
        kept_answers.begin(alice, "k", DIGEST)


def test_parts_of_a_call_do_not_run_into_each_other() -> None:
    assert kept_answers.digest_of("a", "bc") != kept_answers.digest_of("ab", "c")
    assert kept_answers.digest_of("a", b"") != kept_answers.digest_of("a")


def test_what_was_given_up_may_be_tried_again(alice: uuid.UUID) -> None:
    first = begun(alice)
    kept_answers.abandon(first)
    with pytest.raises(KeyReused):
        kept_answers.begin(alice, "k", "0" * 64)
    again = begun(alice)
    assert (again.id, again.again) == (first.id, True)
    kept_answers.abandon(again, nothing_done=True)
    assert stored() == []
    other = begun(alice, digest="0" * 64)
    assert not other.again
    kept_answers.finish(other, Kept(200, (), b"x" * (kept_answers.BODY_MAX + 1)))
    with pytest.raises(NotKept):
        kept_answers.begin(alice, "k", "0" * 64)


def test_a_lease_that_ran_out_is_taken_over_and_the_late_one_harms_nothing(alice: uuid.UUID) -> None:
    late = begun(alice)
    put(running_until=now() - timedelta(seconds=1))
    second = begun(alice)
    assert (second.id, second.again) == (late.id, True)
    # The one that lost its lease neither prolongs nor gives up the other's.
    late.running_until -= kept_answers.LEASE
    assert not kept_answers.prolong(late)
    kept_answers.abandon(late)
    kept_answers.abandon(late, nothing_done=True)
    with pytest.raises(KeyInUse):
        kept_answers.begin(alice, "k", DIGEST)
    kept_answers.finish(second, ANSWER)
    kept_answers.finish(late, Kept(500, (), b"late"))
    assert kept_answers.begin(alice, "k", DIGEST) == ANSWER


def test_a_lease_is_prolonged_while_its_call_lives(alice: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    found = begun(alice)
    with time_machine.travel(now() + timedelta(seconds=20), tick=True):
        assert kept_answers.prolong(found)
    with time_machine.travel(now() + timedelta(seconds=45), tick=True), pytest.raises(KeyInUse):
        kept_answers.begin(alice, "k", DIGEST)
    with time_machine.travel(now() + timedelta(seconds=51), tick=True):
        assert begun(alice).again


def test_the_thread_that_prolongs_does_so(app: Flask, alice: uuid.UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    prolonged = threading.Event()
    real = kept_answers.prolong
    leases = kept_answers._Leases()
    monkeypatch.setattr(kept_answers, "_leases", leases)
    monkeypatch.setattr(kept_answers, "_PROLONG_EVERY_S", 0.01)

    def watched(found: Begun) -> bool:
        before = found.running_until
        done = real(found)
        if found.running_until != before:
            prolonged.set()
        return done

    monkeypatch.setattr(kept_answers, "prolong", watched)
    monkeypatch.setattr(kept_answers, "LEASE", timedelta(seconds=2))
    found = begun(alice)
    assert prolonged.wait(20)
    thread = leases._thread
    kept_answers.finish(found, ANSWER)
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive()
    assert kept_answers.begin(alice, "k", DIGEST) == ANSWER


def test_of_many_threads_one_makes_the_call(app: Flask, alice: uuid.UUID) -> None:
    made = []
    start = threading.Barrier(8)

    def call(_: int) -> str:
        with app.app_context():
            start.wait(20)
            for _ in range(400):
                try:
                    found = kept_answers.begin(alice, "k", DIGEST)
                except KeyInUse:
                    continue
                if isinstance(found, Kept):
                    return found.body.decode()
                made.append(found.id)
                kept_answers.finish(found, Kept(201, (), str(found.id).encode()))
                return str(found.id)
            return "never"

    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(call, range(8)))
    assert len(made) == 1
    assert said == {str(made[0])}


_PROCESS = """
import os, sys, uuid
from pathlib import Path
from tests.conftest import make_settings
from webapp import create_app
from webapp.contracts.errors import Refusal
from webapp.services import kept_answers
folder, database, person, how = sys.argv[1:]
app = create_app(make_settings(Path(folder), "unix:///nowhere", database_url=database))
with app.app_context():
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            found = kept_answers.begin(uuid.UUID(person), line.strip(), "0" * 64)
            print(type(found).__name__, flush=True)
        except Refusal as exc:
            print(exc.code, flush=True)
    if how == "die":
        os._exit(9)
"""


def test_processes_share_the_keys_and_one_that_dies_gives_its_own_back(
    app: Flask, alice: uuid.UUID, database_url: str, tmp_path: Path
) -> None:
    def process() -> subprocess.Popen[str]:
        given = [sys.executable, "-c", _PROCESS, str(tmp_path), database_url, str(alice), "die"]
        made = subprocess.Popen(given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        return made

    keys = [f"key-{number}" for number in range(20)]
    both = [process(), process()]
    said: list[list[str]] = []
    for each in both:
        assert each.stdin is not None
        each.stdin.write("\n".join(keys) + "\n")
        each.stdin.close()
    for each in both:
        assert each.stdout is not None
        with each.stdout:
            said.append(each.stdout.read().split())
        assert each.wait(30) == 9
    for pair in zip(*said, strict=True):
        assert sorted(pair) == ["Begun", "idempotency_key_in_use"]
    with pytest.raises(KeyInUse):
        kept_answers.begin(alice, keys[0], "0" * 64)
    with time_machine.travel(now() + kept_answers.LEASE + timedelta(seconds=1), tick=True):
        assert begun(alice, keys[0], "0" * 64).again


def test_answers_go_when_their_time_is_over(app: Flask, alice: uuid.UUID, make_app: Callable[..., Flask]) -> None:
    kept_answers.finish(begun(alice, "old"), ANSWER)
    running = begun(alice, "running")
    given_up = begun(alice, "given up")
    kept_answers.abandon(given_up)
    put(expires_at=now() - timedelta(seconds=1))
    # Before it is removed, its key is free already, for another call as well.
    fresh = begun(alice, "old", "0" * 64)
    kept_answers.finish(fresh, ANSWER)
    with writing() as connection:
        connection.execute(update(ApiAnswer).where(ApiAnswer.id == running.id).values(expires_at=now() - timedelta(seconds=1)))
    assert kept_answers.remove_expired() == kept_answers.Removed(1)
    assert {row.key for row in stored()} == {"old", "running"}
    kept_answers.finish(running, ANSWER)
    assert kept_answers.remove_expired().removed == 1
    with writing() as connection:
        assert kept_answers.erase(connection, alice) == 1
    assert stored() == []
    assert kept_answers.kept_for() == timedelta(hours=24)
    with make_app(api_answer_h=500, retention_days=2).app_context():
        assert kept_answers.kept_for() == timedelta(days=2)
