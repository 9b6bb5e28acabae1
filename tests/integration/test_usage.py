"""What is used of every limit, told the same on the page, by text message and on the command line."""

from __future__ import annotations

import html
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, insert, select, update

from tests.integration.cli_support import SENDER, Operator, operator
from tests.integration.test_counts import counting
from tests.integration.web_support import ALICE, BOB, Site
from tests.support import add_person, one, persons, requests, run_jobs, sent, text
from webapp.contracts.errors import NotFound
from webapp.contracts.limits import Dimension, Limit, QuotaPolicy, StoredLimit, Window
from webapp.contracts.segments import segments
from webapp.extensions import db, now, reading, writing
from webapp.hookspecs import hookimpl
from webapp.models import (
    ApiToken,
    Delivery,
    HourlyStat,
    LedgerEntry,
    LimitCounter,
    Membership,
    Organization,
    Person,
    PersonRole,
    Plan,
)
from webapp.models.columns import new_id
from webapp.pipeline import usage_words
from webapp.pipeline.admit import admit
from webapp.pipeline.execute import execute
from webapp.pipeline.intake import Intake
from webapp.quota import stored
from webapp.quota.usage import Line, Usage, Whose
from webapp.quota.windows import bounds
from webapp.registry import current_registry
from webapp.services import rollups, usage, usage_organization

__all__ = ["operator"]

PHONE = "+15005550006"


def ask(who: uuid.UUID, prompt: str = "How high is the tower?") -> None:
    request_id = admit(Intake(medium="web", text=prompt, person_id=who, new_conversation=True)).request_id
    assert request_id is not None
    assert execute(request_id)


def change(statement: Any) -> None:
    with writing() as connection:
        connection.execute(statement)


def plan(code: str, more: list[StoredLimit] | None = None, **limits: int | None) -> None:
    change(update(Plan).where(Plan.code == code).values(limits=limits, more_limits=stored.write(more or [])))


def organization(*limits: StoredLimit, **values: Any) -> uuid.UUID:
    change(update(Organization).values(limits=stored.write(limits), **values))
    return one(select(Organization.id))


def line(found: Usage, name: str) -> Line:
    [only] = [each for each in found.lines if each.name == name]
    return only


def install(policy: QuotaPolicy) -> None:
    """Load a plugin with this policy."""
    module = ModuleType("installed")
    module.register_quota_policies = hookimpl(lambda settings: [policy])  # type: ignore[attr-defined]
    record = current_registry().add(module, f"installed-{new_id().hex[:12]}", {})
    assert not record.error, record.error


class Failing(QuotaPolicy):
    name = "failing"

    def limits(self, question: Any) -> Iterator[Limit]:
        raise RuntimeError("the policy is broken")


# -- the one function ----------------------------------------------------------------------------------------------------
def test_every_limit_is_a_line_with_what_is_used_held_and_left(app: Flask) -> None:
    plan(
        "premium",
        [
            StoredLimit("hourly", Dimension.REQUESTS, Window.HOUR, 5),
            StoredLimit("one", Dimension.COST, Window.REQUEST, 900_000),
        ],
        messages=10,
        content=3,
        tokens=10**6,
        cost_microusd=10**6,
    )
    place = organization(StoredLimit("all", Dimension.TOKENS, Window.DAY, 10**6, provider="demo"))
    who = add_person(email=ALICE, plan="premium")
    ask(who)
    admit(Intake(medium="web", text="this one waits", person_id=who))

    found = usage.usage_of(who)
    assert found.troubles == ()
    messages = line(found, "messages")
    assert (messages.used, messages.held, messages.limit, messages.remaining) == (1, 1, 10, 8)
    assert (messages.used_percent, messages.percent, messages.whose) == (10, 20, Whose.PERSON)
    assert messages.operations == ("chat", "image.generate", "image.palette", "prompt.enhance")
    assert messages.resets_at == bounds(Window.MONTH, now(), "UTC")[1]
    # Never used, and there all the same.
    content = line(found, "content")
    assert (content.used, content.held, content.limit, content.operations) == (0, 0, 3, ("content.generate", "content.suggest"))
    assert line(found, "tokens").operations == ()
    hourly = line(found, "limit:hourly")
    assert (hourly.used, hourly.held, hourly.window) == (1, 1, Window.HOUR)
    shared = line(found, "limit:all")
    assert (shared.whose, shared.provider, shared.subject) == (Whose.ORGANIZATION, "demo", f"organization:{place}")
    assert shared.used == requests()[0].input_tokens + requests()[0].output_tokens > 0
    single = line(found, "limit:one")
    assert (single.resets_at, single.limit, single.used_percent, single.full) == (None, 900_000, 0, False)
    assert line(found, "allocation").limit == 50_000


def test_a_limit_that_the_plan_says_is_none_shows_what_the_ledger_has(app: Flask) -> None:
    plan("premium", messages=None, tokens=None, cost_microusd=5)
    who = add_person(email=ALICE, plan="premium")
    change(update(Plan).where(Plan.code == "premium").values(limits={"messages": None, "tokens": None}))
    ask(who)
    found = usage.usage_of(who)
    messages, tokens = line(found, "messages"), line(found, "tokens")
    assert (messages.used, messages.limit, messages.remaining, messages.full) == (1, None, None, False)
    assert tokens.used == requests()[0].input_tokens + requests()[0].output_tokens > 0


def test_of_two_plans_the_higher_one_and_of_a_token_its_own_limits(app: Flask) -> None:
    plan("enterprise", messages=77)
    place = organization(plan_code="enterprise")
    who = add_person(email=ALICE, plan="free")
    token = new_id()
    limit = stored.write([StoredLimit("mine", Dimension.REQUESTS, Window.DAY, 4)])
    change(
        insert(ApiToken).values(
            id=token, person_id=who, name="t", prefix="p", digest="d" * 64, scopes=[], limits=limit, created_at=now()
        )
    )
    assert line(usage.usage_of(who), "messages").limit == 77
    admit(Intake(medium="api", text="by token", person_id=who, token_id=token))
    found = usage.usage_of(who, token_id=token)
    mine = line(found, "limit:mine")
    assert (mine.whose, mine.subject, mine.held) == (Whose.TOKEN, f"token:{token}", 1)
    assert not [each for each in usage.usage_of(who).lines if each.whose is Whose.TOKEN]
    assert usage.usage_of(who, organization_id=place).lines
    for wrong in ({"organization_id": new_id()}, {"token_id": new_id()}, {"token_id": token, "organization_id": new_id()}):
        with pytest.raises(NotFound):
            usage.usage_of(who, **wrong)
    other = add_person(email=BOB)
    with pytest.raises(NotFound):
        usage.usage_of(other, token_id=token)


def test_a_policy_that_fails_is_named_and_the_others_are_shown(app: Flask) -> None:
    who = add_person(email=ALICE, plan="premium")
    install(Failing())
    found = usage.usage_of(who)
    assert len(found.troubles) == 1
    assert "failing" in found.troubles[0]
    assert line(found, "messages").limit is not None
    change(update(Plan).where(Plan.code == "premium").values(more_limits=[{"id": "x"}]))
    [trouble] = usage.usage_of(who).troubles
    assert "cannot be read" in trouble


def test_windows_are_those_of_the_organizations_time_zone(app: Flask) -> None:
    organization(time_zone="Asia/Kolkata")
    plan("premium", [StoredLimit("d", Dimension.REQUESTS, Window.DAY, 5)], messages=10)
    found = usage.usage_of(add_person(email=ALICE, plan="premium"))
    day = line(found, "limit:d")
    assert found.time_zone == "Asia/Kolkata"
    assert day.resets_at is not None
    assert (day.resets_at.hour, day.resets_at.minute) == (18, 30)


def test_usage_takes_two_statements_and_reads_by_index(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    who = add_person(email=ALICE, plan="premium")
    place = organization(StoredLimit("all", Dimension.TOKENS, Window.DAY, 10**6))
    ask(who)
    month = bounds(Window.MONTH, now(), "UTC")[0]
    with writing() as connection:
        # PostgreSQL reads a small table as a whole.
        many = [
            {
                "subject": f"person:{new_id()}",
                "name": "messages",
                "period": "month",
                "starts_at": month,
                "dimension": "requests",
                "maximum": 9,
                "used": 1,
                "held": 0,
            }
            for _ in range(5000)
        ]
        connection.execute(insert(LimitCounter), many)
        entry = dict(connection.execute(select(LedgerEntry.__table__)).mappings().first() or {})
        assert entry
        other = connection.execute(select(Person.id).where(Person.email == "admin@example.com")).scalar_one()
        nothing = {"request_id": None, "attempt_id": None, "payer": "house", "person_id": other}
        elsewhere = new_id()
        connection.execute(insert(Organization).values(id=elsewhere, name="E", time_zone="UTC", limits=[], created_at=now()))
        connection.execute(
            insert(LedgerEntry), [entry | nothing | {"id": new_id(), "organization_id": elsewhere} for _ in range(5000)]
        )
        connection.exec_driver_sql("ANALYZE")
    with counting(monkeypatch) as counted:
        usage.usage_of(who)
    assert counted.database == 2, counted.statements
    with counting(monkeypatch) as counted:
        assert usage.near_limits(who, place, "UTC") == ()
    assert counted.database == 1, counted.statements
    read = statements_of(
        lambda: usage.usage_of(who),
        lambda: usage.near_limits(who, place, "UTC"),
        lambda: usage.month_of(who, place, "UTC"),
        lambda: usage_organization.usage_of_organization(place),
    )
    assert_by_index(read, ("limit_counter", "ledger_entry"))


def statements_of(*works: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The SELECTs of these functions with their values."""
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, sql: str, values: Any, *_: object) -> None:
        if sql.lstrip().startswith("SELECT"):
            seen.append((sql, values))

    event.listen(db.engine, "before_cursor_execute", note)
    try:
        for work in works:
            work()
    finally:
        event.remove(db.engine, "before_cursor_execute", note)
    return seen


def assert_by_index(statements: list[tuple[str, Any]], tables: tuple[str, ...]) -> None:
    """None of these tables is read as a whole."""
    looked = 0
    with db.engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
        for sql, values in statements:
            plan = " ".join(str(row) for row in connection.exec_driver_sql(explain + sql, values))
            for table in tables:
                looked += f" {table}" in sql
                assert f"SCAN {table}'" not in plan, (sql, plan)
                assert f"Seq Scan on {table} " not in plan, (sql, plan)
    assert looked >= len(tables)


# -- the organization ----------------------------------------------------------------------------------------------------
def test_an_organization_sees_its_own_limits_its_month_and_its_people(app: Flask) -> None:
    place = organization(
        StoredLimit("all", Dimension.TOKENS, Window.MONTH, 10**6),
        StoredLimit("each", Dimension.REQUESTS, Window.DAY, 9, each=True),
    )
    alice, bob = add_person(email=ALICE, plan="premium"), add_person(email=BOB, plan="premium")
    for number in range(3):
        ask(alice, f"question {number}")
    ask(bob)
    with writing() as connection:
        connection.execute(update(LedgerEntry).where(LedgerEntry.person_id == alice).values(cost_microusd=7))
        # Early in the month, before the last hour that is summed up.
        early = bounds(Window.MONTH, now(), "UTC")[0] + timedelta(minutes=5)
        moved = early < now() - timedelta(hours=4)
        if moved:
            connection.execute(update(LedgerEntry).where(LedgerEntry.person_id == bob).values(created_at=early))
    rollups.rebuild()
    found = usage_organization.usage_of_organization(place)
    assert [each.name for each in found.usage.lines] == ["limit:all"]
    assert found.usage.lines[0].used == sum(r.input_tokens + r.output_tokens for r in requests())
    assert (found.month.requests, found.month.cost_microusd) == (4, 21)
    assert found.spenders is not None
    assert [(each.title, each.requests, each.cost_microusd) for each in found.spenders] == [(ALICE, 3, 21), (BOB, 1, 0)]
    assert {(each.title, each.requests) for each in found.members} >= {(ALICE, 3), (BOB, 1)}
    assert not found.more
    if moved:
        with reading() as connection:
            assert connection.execute(select(HourlyStat.hour)).first() is not None


def test_people_come_a_page_at_a_time(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_organization, "PAGE", 2)
    monkeypatch.setattr(usage_organization, "CALLS_MAX", 0)
    place = organization()
    who = [add_person(email=f"p{n}@example.com") for n in range(4)]
    ask(who[0])
    seen, after = [], None
    while True:
        found = usage_organization.usage_of_organization(place, after)
        seen += [each.person_id for each in found.members]
        assert found.spenders is None
        if not found.more:
            break
        after = found.members[-1].person_id
    assert len(seen) == len(set(seen)) == len(persons())
    with pytest.raises(NotFound):
        usage_organization.usage_of_organization(new_id())


# -- by text message -----------------------------------------------------------------------------------------------------
def test_usage_by_text_is_answered_at_once_and_counts_on_nothing(app: Flask) -> None:
    plan("free", messages=10, tokens=None, cost_microusd=100_000)
    text("hello", PHONE)
    run_jobs()
    before = one(select(LimitCounter.used).where(LimitCounter.name == "messages"))
    for body in ("USAGE", " usage. ", '"Usage"'):
        text(body, PHONE)
    assert len(requests()) == 1
    answers = [message.body for message in sent(PHONE)][1:]
    assert len(answers) == 3
    reset = bounds(Window.MONTH, now(), "UTC")[1]
    assert answers[0].startswith("Messages: 1 of 10. Spending: $0.00 of $0.10. New on " + f"{reset:%B} 1.")
    assert segments(answers[0]) <= 2
    assert one(select(LimitCounter.used).where(LimitCounter.name == "messages")) == before
    text("usage of the bridge", PHONE)
    assert len(requests()) == 2


def test_two_machines_cannot_talk_usage_for_ever(app: Flask) -> None:
    text("hello", PHONE)
    for _ in range(9):
        text("USAGE", PHONE)
    assert len(sent(PHONE)) == usage_words.ANSWERS_MAX
    text("USAGE", "+15005550099")
    assert len(sent("+15005550099")) == 1
    # An hour later there are answers again.
    with writing() as connection:
        earlier = (now() - timedelta(hours=2)).timestamp()
        for number, key in enumerate(connection.execute(select(Delivery.id).where(Delivery.address == PHONE)).scalars().all()):
            moved = uuid.UUID(int=(int(earlier * 1000) + number) << 80 | key.int & ((1 << 80) - 1))
            connection.execute(update(Delivery).where(Delivery.id == key).values(id=moved))
    text("USAGE", PHONE)
    assert len(sent(PHONE)) == usage_words.ANSWERS_MAX + 1


def test_commands_at_once_get_no_more_answers_than_one_by_one(app: Flask) -> None:
    text("hello", PHONE)
    barrier = threading.Barrier(8)

    def send(number: int) -> None:
        with app.app_context():
            barrier.wait()
            text("USAGE", PHONE, external_id=f"at-once-{number}")

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent(PHONE)) == usage_words.ANSWERS_MAX


def test_those_who_are_not_served_get_no_usage(app: Flask) -> None:
    text("hello", PHONE)
    text("STOP", PHONE)
    text("USAGE", PHONE)
    assert sent(PHONE) == []


def test_the_hours_of_commands_are_read_by_index(app: Flask) -> None:
    text("hello", PHONE)
    with writing() as connection:
        message = dict(connection.execute(select(Delivery.__table__)).mappings().first() or {})
        others = [
            message | {"id": new_id(), "external_id": f"x{n}", "address": f"+1500{n:07}", "request_id": None}
            for n in range(5000)
        ]
        connection.execute(insert(Delivery), others)
        connection.exec_driver_sql("ANALYZE")
    read = statements_of(lambda: text("USAGE", PHONE))
    assert_by_index([(sql, values) for sql, values in read if "length(" in sql], ("delivery",))


def test_the_text_fits_into_two_segments_whatever_there_is() -> None:
    at = datetime(2026, 11, 21, 15, 10, tzinfo=UTC)

    def made(label: str, window: Window, used: int, limit: int | None) -> Line:
        starts_at, resets_at = bounds(window, at, "UTC")
        dimension = Dimension.COST if label == "spending" else Dimension.REQUESTS
        return Line(label, Whose.PERSON, "person:x", label, dimension, window, used, 0, limit, starts_at, resets_at)

    usual = (made("messages", Window.MONTH, 8, 10), made("spending", Window.MONTH, 30_000, 100_000))
    assert usage_words.told(Usage(usual, at=at)) == "Messages: 8 of 10. Spending: $0.03 of $0.10. New on December 1."
    hourly = (made("requests", Window.HOUR, 1, 5), made("requests", Window.DAY, 2, 20), *usual)
    assert usage_words.told(Usage(hourly, at=at)) == (
        "Requests: 1 of 5. New at 16:00. Requests: 2 of 20. New on November 22. "
        "Messages: 8 of 10. Spending: $0.03 of $0.10. New on December 1."
    )
    many = tuple(made(f"a limit with a long name 🙂 {n}", Window.MONTH, n, 1000) for n in range(30))
    told = usage_words.told(Usage(many, at=at))
    assert segments(told) <= usage_words.SEGMENTS_MAX
    assert told.startswith("A limit with a long name")
    assert usage_words.told(Usage((made("messages", Window.MONTH, 12, None),), at=at)) == "Messages: 12."
    assert usage_words.told(Usage(at=at)) == usage_words.NO_LIMITS
    assert usage_words.told(Usage(troubles=("x",), at=at)) == usage_words.UNKNOWN
    assert "Some limits cannot be told now." in usage_words.told(Usage(usual, ("x",), at=at))


# -- the pages -----------------------------------------------------------------------------------------------------------
sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@sqlite
def test_the_page_shows_every_limit_in_words_and_bars(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app())
    site.add(ALICE, plan="premium")
    with site.app.app_context():
        plan("premium", [StoredLimit("t", Dimension.REQUESTS, Window.HOUR, 1, label="quick <b>questions</b>")], messages=5)
    browser = site.browser(ALICE)
    empty = browser.get("/usage").text
    assert "0 of 5 used (0 %)" in empty
    assert "Nothing was used in this month so far." in empty
    assert 'href="/usage" aria-current="page"' in empty
    browser.ask("hello")
    site.run_jobs()
    page = html.unescape(browser.get("/usage").text)
    assert "1 of 5 used (20 %)" in page
    assert "Used up." in page
    assert "Counts chats, pictures, palettes, better prompts." in page
    assert "<b>questions</b>" not in browser.get("/usage").text
    assert "demo" in page
    with site.app.app_context():
        install(Failing())
        broken = site.browser(ALICE).get("/usage")
    assert broken.status_code == 200
    assert "failing" in broken.text
    assert "1 of 5 used" in broken.text
    assert "/login" in site.browser().get("/usage").headers["Location"]


@sqlite
def test_the_chat_says_when_a_limit_is_nearly_used_and_when_it_is_full(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app())
    site.add(ALICE, plan="premium")
    site.give_limits("premium", messages=5)
    browser = site.browser(ALICE)
    for number in range(4):
        assert "Nearly used up" not in browser.get("/").text
        browser.ask(f"question {number}")
        site.run_jobs()
    page = browser.get("/").text
    assert "Nearly used up" in page
    assert "4 of 5 of this month" in page
    browser.ask("the last one")
    site.run_jobs()
    page = browser.get("/").text
    assert "<strong>Used up:</strong>" in page
    assert "5 of 5" in page
    # A higher limit counts at once, although the counter still knows the lower one.
    site.give_limits("premium", messages=50)
    assert "Used up" not in browser.get("/").text


@sqlite
def test_the_organizations_page_is_for_its_managers(make_app: Callable[..., Flask]) -> None:
    site = Site(make_app())
    site.add(ALICE, plan="premium")
    site.add(BOB, plan="premium")
    with site.app.app_context():
        place = organization(StoredLimit("all", Dimension.REQUESTS, Window.DAY, 40))
        boss = one(select(Person.id).where(Person.email == BOB))
        change(update(Membership).where(Membership.person_id == boss).values(role=PersonRole.MANAGER))
    site.browser(ALICE).ask("hello")
    site.run_jobs()
    assert site.browser(ALICE).get("/organization/usage").status_code == 403
    page = site.browser(BOB).get("/organization/usage")
    assert page.status_code == 200
    assert "1 of 40 used" in page.text
    assert ALICE in page.text
    assert 'aria-current="page">Usage' in page.text
    assert site.browser(BOB).get(f"/organization/usage?after={place}").status_code == 200
    assert site.browser(BOB).get("/organization/usage?after=nonsense").status_code == 200
    assert site.admin().get("/organization/usage").status_code == 200


# -- the command ---------------------------------------------------------------------------------------------------------
@sqlite
def test_the_command_shows_the_limits_of_people_organizations_and_tokens(operator: Operator, app: Flask) -> None:
    plan("premium", messages=5)
    place = organization(StoredLimit("all", Dimension.COST, Window.DAY, 40), name="House of Cards")
    who = add_person(email=ALICE, plan="premium", phone=SENDER)
    ask(who)
    token = new_id()
    limit = stored.write([StoredLimit("mine", Dimension.REQUESTS, Window.DAY, 4)])
    change(
        insert(ApiToken).values(
            id=token, person_id=who, name="t", prefix="p", digest="d" * 64, scopes=[], limits=limit, created_at=now()
        )
    )
    said = operator.json("usage", SENDER)
    [messages] = [each for each in said["lines"] if each["name"] == "messages"]
    assert (messages["used"], messages["limit"], messages["percent"], messages["remaining"]) == (1, 5, 20, 4)
    assert "1  0     5" in " ".join(operator.ok("usage", ALICE).split("\n")) or "messages" in operator.ok("usage", ALICE)
    assert [each["name"] for each in operator.json("usage", "--organization", "House of Cards")["lines"]] == ["limit:all"]
    assert operator.json("usage", ALICE, "--organization", str(place))["lines"]
    assert "limit:mine" in {each["name"] for each in operator.json("usage", "--token", str(token))["lines"]}
    assert operator.json("usage")["lines"] is not None
    for wrong in (("nobody@example.com",), ("--token", "x"), ("--token", str(new_id())), ("--organization", "none")):
        failed = operator("usage", *wrong)
        assert failed.exit_code == 1, wrong
        assert failed.output.startswith("switchhook: ")
    assert operator("usage", ALICE, "--token", str(token)).exit_code == 2
