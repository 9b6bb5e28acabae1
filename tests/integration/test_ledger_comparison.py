"""Our ledger beside a vendor's count, on both databases, through the operator's command."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.integration.cli_support import Operator, operator

__all__ = ["operator"]

DAY = datetime(2026, 11, 3, 12, tzinfo=UTC)
HEAD = "date,model,input_tokens,output_tokens,cached_tokens,requests,cost_usd\n"
Export = Callable[[str], str]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Writes a vendor's export and gives its path."""

    def write(rows: str, head: str = HEAD) -> str:
        path = tmp_path / f"{uuid.uuid4().hex}.csv"
        path.write_text(head + rows, "utf-8")
        return str(path)

    return write


def fill(*entries: dict[str, Any]) -> None:
    """Put entries into the ledger: what is not said is one request of gpt-4.1-mini on `DAY`."""
    from webapp.cli import context
    from webapp.extensions import writing_session
    from webapp.models import LedgerEntry, Person, Request

    with context.application(), writing_session() as session:
        person = session.scalars(select(Person)).first()
        assert person is not None
        who = {"person_id": person.id, "organization_id": person.organization_id, "channel": "web", "operation": "chat"}
        for entry in entries:
            asked = Request(
                **who, prompt="", status="completed", max_input_tokens=1, max_output_tokens=1, queue="default", priority=1
            )
            session.add(asked)
            session.flush()
            values = {
                "provider": "openai",
                "model": "gpt-4.1-mini",
                "requests": 1,
                "input_tokens": 1000,
                "output_tokens": 200,
                "cost_microusd": 100_000,
                "estimated": False,
                "price_source": "genai-prices 0.2.3",
                "created_at": DAY,
            }
            session.add(LedgerEntry(request_id=asked.id, **(who | values | entry)))


def compared(operator: Operator, path: str, *arguments: str, provider: str = "openai") -> tuple[int, dict[str, Any]]:
    """The exit code of a comparison and its JSON."""
    import json

    result = operator("ledger", "compare", path, "--provider", provider, "--json", *arguments)
    return result.exit_code, json.loads(result.stdout)


def test_the_same_on_both_sides_agrees_dated_names_and_several_rows_included(operator: Operator, export: Export) -> None:
    fill({}, {"model": "gpt-4.1-mini-2025-04-14", "cached_tokens": 50}, {"model": "gpt-5-mini"}, {"provider": "mistral"})
    path = export(
        "2026-11-03,gpt-4.1-mini-2025-04-14,1500,300,50,1,0.15\n"
        "2026-11-03,gpt-4.1-mini-2025-04-14,500,100,0,1,0.05\n"
        "2026-11-03,gpt-5-mini-2025-08-07,1000,200,0,1,0.10\n"
    )
    code, found = compared(operator, path)
    assert (code, found["agree"], found["reasons"]) == (0, True, [])
    assert [(line["day"], line["model"], line["differs"]) for line in found["lines"]] == [
        ("2026-11-03", "gpt-4.1-mini", []),
        ("2026-11-03", "gpt-5-mini", []),
    ]
    assert found["ours"] == found["theirs"]
    assert found["ours"] == {
        "input_tokens": 3000,
        "output_tokens": 600,
        "cached_tokens": 50,
        "requests": 3,
        "cost_microusd": 300_000,
    }
    assert "agree within 1 %" in operator.ok("ledger", "compare", path, "--provider", "openai")


def test_a_day_is_a_day_in_utc_whatever_the_zone_of_the_databases_session(
    operator: Operator, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTZ", "America/Los_Angeles")
    last, first = datetime(2026, 11, 3, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2026, 11, 4, 0, 0, tzinfo=UTC)
    fill({"created_at": last}, {"created_at": first}, {"created_at": first + timedelta(days=1)})
    path = export("2026-11-03,gpt-4.1-mini,1000,200,0,1,0.1\n2026-11-04,gpt-4.1-mini,1000,200,0,1,0.1\n")
    code, found = compared(operator, path)
    assert code == 0
    assert (found["from"], found["to"]) == ("2026-11-03", "2026-11-04")
    assert [(line["ours"]["requests"], line["differs"]) for line in found["lines"]] == [(1, []), (1, [])]


@pytest.mark.parametrize(
    ("row", "differs", "reason"),
    [
        ("1011,200,0,1,0.1", ["input_tokens"], None),
        ("1000,190,0,1,0.1", ["output_tokens"], None),
        ("1000,200,0,1,0.2", ["cost_microusd"], "tokens agree and the cost does not"),
        ("1000,200,500,1,0.05", ["cost_microusd"], "The cached tokens differ"),
        ("2000,400,0,2,0.2", ["input_tokens", "output_tokens", "cost_microusd"], "more requests than we answered"),
    ],
)
def test_what_differs_is_named_and_the_exit_code_says_so(
    operator: Operator, export: Export, row: str, differs: list[str], reason: str | None
) -> None:
    fill({})
    path = export(f"2026-11-03,gpt-4.1-mini,{row}\n")
    code, found = compared(operator, path)
    assert (code, found["agree"], found["total_differs"]) == (1, False, differs)
    assert [line["differs"] for line in found["lines"]] == [differs]
    assert reason is None or any(reason in said for said in found["reasons"])
    assert compared(operator, path, "--tolerance", "60")[0] == 0
    shown = operator("ledger", "compare", path, "--provider", "openai")
    assert shown.exit_code == 1
    assert "differ by more than 1 %" in shown.stdout
    assert "differs: " in shown.stdout


def test_within_the_tolerance_is_not_a_difference_and_none_is_allowed_at_zero(operator: Operator, export: Export) -> None:
    fill({})
    path = export("2026-11-03,gpt-4.1-mini,1009,201,0,1,0.1009\n")
    assert compared(operator, path)[0] == 0
    code, found = compared(operator, path, "--tolerance", "0")
    assert (code, found["total_differs"]) == (1, ["input_tokens", "output_tokens", "cost_microusd"])


def test_what_only_one_side_has_is_told_with_what_it_may_be(operator: Operator, export: Export) -> None:
    fill({}, {"model": "gpt-5-mini"})
    path = export("2026-11-03,gpt-4.1-mini,1000,200,0,1,0.1\n2026-11-03,whisper-9,1000,200,0,1,0.1\n")
    code, found = compared(operator, path)
    assert (code, found["total_differs"]) == (1, [])
    sides = {line["model"]: (line["ours"] is not None, line["theirs"] is not None) for line in found["lines"]}
    assert sides == {"gpt-4.1-mini": (True, True), "gpt-5-mini": (True, False), "whisper-9": (False, True)}
    assert any(said.startswith("Only the vendor has whisper-9") for said in found["reasons"])
    assert any(said.startswith("Only our ledger has gpt-5-mini") for said in found["reasons"])
    shown = operator("ledger", "compare", path, "--provider", "openai").stdout
    assert "(only here)" in shown
    assert "(only there)" in shown


def test_requests_around_midnight_are_no_difference(operator: Operator, export: Export) -> None:
    fill({}, {}, {"created_at": DAY + timedelta(days=1)})
    path = export("2026-11-03,gpt-4.1-mini,1000,200,0,1,0.1\n2026-11-04,gpt-4.1-mini,2000,400,0,2,0.2\n")
    code, found = compared(operator, path)
    assert code == 0
    assert [line["shifted"] for line in found["lines"]] == [True, True]
    assert any("midnight" in said for said in found["reasons"])
    fill({})
    assert compared(operator, path)[0] == 1


def test_an_export_without_models_is_compared_by_day(operator: Operator, export: Export) -> None:
    fill({}, {"model": "gpt-5-mini"})
    without = export("2026-11-03,0.2\n", "date,cost\n")
    blank = export("1793664000,0.2,usd,\n1793750400,,,\n", "start_time,amount_value,amount_currency,line_item\n")
    for path in (without, blank):
        code, found = compared(operator, path)
        assert (code, found["compared"]) == (0, ["cost_microusd"])
        assert [line["model"] for line in found["lines"]][:1] == ["(all)"]


def test_only_the_days_that_are_asked_for_count(operator: Operator, export: Export) -> None:
    fill({}, {"created_at": DAY + timedelta(days=1), "input_tokens": 7})
    path = export("2026-11-03,gpt-4.1-mini,1000,200,0,1,0.1\n2026-11-04,gpt-4.1-mini,9999,200,0,1,0.1\n")
    assert compared(operator, path)[0] == 1
    code, found = compared(operator, path, "--from", "2026-11-01", "--to", "2026-11-03")
    assert (code, found["from"], found["to"], len(found["lines"])) == (0, "2026-11-01", "2026-11-03", 1)
    code, found = compared(operator, path, "--from", "2026-10-01", "--to", "2026-10-31")
    assert (code, found["lines"]) == (0, [])


def test_what_is_weak_on_our_side_is_among_the_reasons(operator: Operator, export: Export) -> None:
    fill({"estimated": True, "price_source": "ceiling"}, {"price_source": "override"}, {})
    _, found = compared(operator, export("2026-11-03,gpt-4.1-mini,1000,200,0,1,0.1\n"))
    said = " ".join(found["reasons"])
    assert "1 of our 3 entries are estimates" in said
    assert "ceiling" in said
    assert "own prices" in said


def test_a_provider_that_the_ledger_does_not_know_is_told_with_those_it_does(operator: Operator, export: Export) -> None:
    fill({})
    code, found = compared(operator, export("2026-11-03,gpt-4.1-mini,1000,200,0,1,0.1\n"), provider="open-ai")
    assert code == 1
    assert any("'open-ai'" in said and "It has openai." in said for said in found["reasons"])


def test_todays_export_may_lag_behind(operator: Operator, export: Export) -> None:
    today = datetime.now(UTC).date()
    _, found = compared(operator, export(f"{today},gpt-4.1-mini,1000,200,0,1,0.1\n"))
    assert any("lag behind" in said for said in found["reasons"])


def test_anthropics_and_googles_names_are_found_in_their_bills(operator: Operator, export: Export) -> None:
    fill(
        {"provider": "anthropic", "model": "claude-haiku-4-5", "input_tokens": 4120, "cached_tokens": 4000},
        {"provider": "gemini", "model": "gemini-3.1-pro-preview"},
    )
    claude = export(
        "2026-11-03,claude-haiku-4-5-20251001,100,20,4000,200\n",
        "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
        "usage_input_tokens_cache_read,usage_output_tokens\n",
    )
    assert compared(operator, claude, provider="anthropic")[0] == 0
    google = export(
        "Generate content input token count gemini 3.1 pro short text,2026-11-03,1000,0.06\n"
        "Generate content output token count gemini 3.1 pro short text,2026-11-03,200,0.04\n",
        "SKU description,Usage start date,Usage amount,Cost ($)\n",
    )
    assert compared(operator, google, provider="gemini")[0] == 0


@pytest.mark.parametrize(
    ("rows", "arguments", "said"),
    [
        ("2026-11-03,m,x,1,1,1,1\n", (), "Line 2, column 'input_tokens': 'x' is not a number."),
        ("", (), "The export has nothing of these days."),
        ("2026-11-03,m,1,1,1,1,1\n", ("--from", "2026-11-09"), "The export has nothing of these days."),
        ("2026-11-03,m,1,1,1,1,1\n", ("--from", "2026-11-09", "--to", "2026-11-08"), "The last day is before the first."),
        ("2026-11-03,m,1,1,1,1,1\n", ("--columns", "size=x"), "there are date, model, input"),
        ("2026-11-03,m,1,1,1,1,1\n", ("--columns", "date=Tag"), "There is no column 'Tag'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    operator: Operator, export: Export, rows: str, arguments: tuple[str, ...], said: str
) -> None:
    result = operator("ledger", "compare", export(rows), "--provider", "openai", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_long_table_is_cut_after_what_differs(operator: Operator, export: Export) -> None:
    many = "".join(f"2026-10-{day:02d},model-{name},100,1,0,1,0.1\n" for day in range(1, 31) for name in "abc")
    shown = operator("ledger", "compare", export(many), "--provider", "openai").stdout
    assert "60 of 90 days and models: --json has all." in shown
    assert "total" in shown


# -- the summary -------------------------------------------------------------------------------------------------------
def test_the_summary_has_tokens_costs_what_is_estimated_and_where_the_prices_are_from(operator: Operator) -> None:
    now = datetime.now(UTC)
    fill(
        {"created_at": now},
        {"created_at": now, "model": "gpt-5-mini", "cost_microusd": 300_000, "estimated": True, "price_source": "ceiling"},
        {
            "created_at": now,
            "provider": "ollama",
            "model": "llama",
            "cost_microusd": 0,
            "price_source": "local",
            "estimated": True,
        },
        {"created_at": now - timedelta(days=40), "cost_microusd": 9_000_000},
    )
    [openai, ollama] = operator.json("ledger", "summary")["rows"]
    assert (openai["name"], openai["entries"], openai["requests"], openai["cost_microusd"]) == ("openai", 2, 2, 400_000)
    assert (openai["input_tokens"], openai["output_tokens"], openai["estimated_percent"]) == (2000, 400, 75.0)
    assert openai["sources"] == {"ceiling": 300_000, "genai-prices 0.2.3": 100_000}
    assert (ollama["name"], ollama["cost_microusd"], ollama["estimated_percent"]) == ("ollama", 0, 100.0)
    models = [row["name"] for row in operator.json("ledger", "summary", "--by", "model")["rows"]]
    assert models == ["openai/gpt-5-mini", "openai/gpt-4.1-mini", "ollama/llama"]
    days = operator.json("ledger", "summary", "--by", "day", "--days", "50")["rows"]
    assert [date.fromisoformat(row["name"]) for row in days] == [now.date() - timedelta(days=40), now.date()]
    table = operator.ok("ledger", "summary")
    assert "$0.40" in table
    assert "75.0 %" in table
    assert "ceiling $0.30" in table
    assert "Together $0.40." in table


def test_what_the_house_paid_itself_is_marked_in_the_summary(operator: Operator) -> None:
    now = datetime.now(UTC)
    fill(
        {"created_at": now, "cost_microusd": 1_000_000},
        {"created_at": now, "payer": "house", "cost_microusd": 23_456},
    )
    [row] = operator.json("ledger", "summary")["rows"]
    assert (row["requests"], row["house_requests"], row["house_microusd"]) == (2, 1, 23_456)
    table = operator.ok("ledger", "summary")
    assert "tests, sorting (house)" in table
    assert "1, $0.02346" in table
    assert "Together $1.024, of which the house's own tests and sorting $0.02346." in table


def test_an_empty_ledger_is_said_to_be_empty(operator: Operator) -> None:
    assert "Nothing was used since" in operator.ok("ledger", "summary", "--days", "1")
    assert operator.json("ledger", "summary")["rows"] == []


def test_what_messages_cost_has_a_column_of_its_own_in_the_summary(operator: Operator) -> None:
    now = datetime.now(UTC)
    message = {"payer": "house", "operation": "message.send", "provider": "twilio", "model": "sms", "requests": 0}
    fill(
        {"created_at": now, "cost_microusd": 1_000_000},
        {"created_at": now, "input_tokens": 0, "output_tokens": 0, "cost_microusd": 20_000} | message,
    )
    rows = operator.json("ledger", "summary", "--by", "model")["rows"]
    assert [(row["name"], row["messages_microusd"]) for row in rows] == [("openai/gpt-4.1-mini", 0), ("twilio/sms", 20_000)]
    assert "Together $1.02, of which messages $0.02." in operator.ok("ledger", "summary")
