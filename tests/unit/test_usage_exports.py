"""Vendors' usage exports: every layout as the same rows, hostile files as one line that says what is wrong."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TextIO, cast

import pytest

from webapp.contracts.errors import BadInput
from webapp.services import usage_cells, usage_exports
from webapp.services.usage_exports import UsageRow

DAY = date(2026, 11, 3)


def rows(text: str, provider: str = "", columns: str = "") -> list[UsageRow]:
    return list(usage_exports.read(io.StringIO(text), provider, usage_exports.parse_columns(columns)).rows)


def fault(text: str, provider: str = "", columns: str = "") -> str:
    with pytest.raises(BadInput) as caught:
        rows(text, provider, columns)
    return caught.value.message


# -- layouts -----------------------------------------------------------------------------------------------------------
def test_openais_usage_has_cached_tokens_inside_the_input() -> None:
    text = (
        "start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,model,batch,"
        "service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens,input_text_tokens\n"
        "1793664000,1793750400,2026-11-03T00:00:00+00:00,2026-11-04T00:00:00+00:00,p,7,,,gpt-4.1-mini-2025-04-14,,,"
        "1000,200,400,600,1000\n"
    )
    [row] = rows(text, "openai")
    assert row == UsageRow(2, DAY, "gpt-4.1-mini-2025-04-14", 1000, 200, 400, 7)


def test_openais_older_usage_is_read_too() -> None:
    text = "timestamp,snapshot_id,n_requests,n_context_tokens_total,n_generated_tokens_total\n1793664000,gpt-4o,3,10,20\n"
    assert rows(text, "openai") == [UsageRow(2, DAY, "gpt-4o", 10, 20, 0, 3)]


def test_openais_costs_are_by_kind_of_token_and_add_up_under_the_model() -> None:
    text = (
        "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id\n"
        '1793664000,1793750400,2026-11-03T00:00:00+00:00,,0.895874000000000001,usd,"gpt-4.1-mini-2025-04-14, cached input",\n'
        '1793664000,1793750400,2026-11-03T00:00:00+00:00,,1e-7,usd,"gpt-4.1-mini-2025-04-14, output",\n'
        "1793664000,1793750400,2026-11-03T00:00:00+00:00,,,,,\n"
    )
    first, second, empty = rows(text, "openai")
    assert {first.model, second.model} == {"gpt-4.1-mini-2025-04-14"}
    assert (first.cost_usd, second.cost_usd) == (Decimal("0.895874000000000001"), Decimal("1e-7"))
    assert (empty.model, empty.cost_usd) == ("", 0)


def test_anthropics_usage_has_cached_and_written_tokens_beside_the_input() -> None:
    text = (
        "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
        "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens\n"
        "2026-11-03,claude-haiku-4-5-20251001,k,Default,standard,≤ 200k,100,20,3,4000,50\n"
    )
    assert rows(text, "anthropic") == [UsageRow(2, DAY, "claude-haiku-4-5-20251001", 4123, 50, 4000)]


def test_anthropics_plain_input_is_without_the_cached_and_anybody_elses_with_them() -> None:
    text = "date,model,input_tokens,cache_read_input_tokens,output_tokens\n2026-11-03,m,100,40,5\n"
    assert [row.input_tokens for row in rows(text, "anthropic")] == [140]
    assert [row.input_tokens for row in rows(text, "house")] == [100]


def test_anthropics_costs() -> None:
    text = (
        "usage_date_utc,model,workspace,token_type,cost_usd,cost_type\n2026-11-03,Claude Haiku 4.5,W,output_tokens,0.12,token\n"
    )
    assert rows(text, "anthropic") == [UsageRow(2, DAY, "Claude Haiku 4.5", cost_usd=Decimal("0.12"))]


def test_googles_bill_has_a_row_for_each_kind_of_token_and_lines_before_its_headers() -> None:
    text = (
        "Billing account,My company\n\n"
        "Service description,SKU description,Usage start date,Usage amount,Usage unit,Cost ($),Currency\n"
        "Gemini API,Generate content input token count gemini 3.5 flash lite short input text,2026-11-03,1000,count,0.30,USD\n"
        "Gemini API,Generate content output token count gemini 3.5 flash lite short output text,2026-11-03,200,count,0.5,USD\n"
        "Gemini API,Generate content cached input token count gemini 3.5 flash lite,2026-11-03,70,count,0.01,USD\n"
        "Gemini API,Cached content storage token count gemini 3.5 flash lite,2026-11-03,9999,count,0.02,USD\n"
        "Gemini API,Free trial,2026-11-03,,,-0.83,USD\n"
        ",,Total,,,0.00,USD\n"
    )
    found = rows(text, "google")
    assert [row.line for row in found] == [4, 5, 6, 7, 8]
    assert {row.model for row in found[:4]} == {"gemini-3.5-flash-lite"}
    assert [sum(getattr(row, name) for row in found) for name in ("input_tokens", "output_tokens", "cached_tokens")] == [
        1070,
        200,
        70,
    ]
    assert sum(row.cost_usd for row in found) == 0


def test_deepseeks_usage_has_a_row_for_each_kind_of_token_and_its_costs_are_another_file() -> None:
    head = "user_id,utc_date,model,api_key_name,api_key,type,price,amount\n"
    kinds = {"input_cache_hit_tokens": 70, "input_cache_miss_tokens": 30, "output_tokens": 9, "request_count": 4}
    text = head + "".join(f"u,2026-11-03,deepseek-flash,k,sk,{kind},0.1,{amount}\n" for kind, amount in kinds.items())
    found = rows(text, "deepseek")
    sums = [sum(getattr(row, name) for row in found) for name in UsageRow.__slots__[3:7]]
    assert sums == [100, 9, 70, 4]
    costs = "user_id,utc_date,model,wallet_type,cost,currency\nu,2026-11-03,deepseek-flash,paid,0.5,{}\n"
    assert rows(costs.format("USD"), "deepseek") == [UsageRow(2, DAY, "deepseek-flash", cost_usd=Decimal("0.5"))]
    assert "Line 2, column 'currency'" in fault(costs.format("CNY"), "deepseek")
    assert "no line" in fault(costs.format("CNY"), "deepseek", "cost=").lower()


@pytest.mark.parametrize(
    "text",
    [
        "Date,Model,Input tokens,Output tokens,Cached,Requests,Cost\n2026-11-03,m,1000,200,40,3,0.125\n",
        "\ufeffDATE;MODEL;INPUT TOKENS;OUTPUT TOKENS;CACHED;REQUESTS;COST ($)\r\n03.11.2026;m;1.000;200;40;3;0,125\r\n",
        'sep=,\nday,"model",prompt_tokens,completion_tokens,cached_tokens,requests,cost_usd\n11/3/2026,m,"1,000",200,40,3,$0.125',
        "date\tmodel\tinput\toutput\tcached\trequests\tcost\n2026-11-03T23:59:59Z\tm\t1000.0\t200\t40\t3\t1.25e-1\n",
        "odd,date,model,input,output,cached,requests,cost\n,2026-11-04T01:00:00+02:00,m,1 000,+200,40,3,USD 0.125,more,cells\n",
        "date|model|input|output|cached|requests|cost\n\n|||||\n1793664000000|m|1000|200|40|3|.125\nTotal||1000|200|40|3|.125\n",
        'date,model,input,output,cached,requests,cost\n="2026-11-03",\'m,1000,200,40,3,"0,125"\n',
    ],
)
def test_a_file_with_customary_headers_is_read_whatever_its_marks_are(text: str) -> None:
    [row] = rows(text)
    assert (row.day, row.model) == (DAY, "m")
    assert (row.input_tokens, row.output_tokens, row.cached_tokens, row.requests) == (1000, 200, 40, 3)
    assert row.cost_usd == Decimal("0.125")


def test_the_operator_can_say_which_column_is_what() -> None:
    text = "Tag,Wer,Rein,Raus,Preis\n2026-11-03,m,5,6,7\n"
    assert "--columns" in fault(text)
    assert rows(text, columns="date=Tag, model=wer ,input=Rein,output=Raus,cost=Preis") == [
        UsageRow(2, DAY, "m", 5, 6, cost_usd=Decimal(7))
    ]
    assert rows("date,input,cost\n2026-11-03,5,in euros\n", columns="cost=") == [UsageRow(2, DAY, "", 5)]


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    said = fault("date,model,input\n2026-11-03,m,1\n", columns="output=Raus")
    assert said == "There is no column 'Raus'; there are: date, model, input."
    for wrong in ("date", "colour=Tag", "date:Tag"):
        with pytest.raises(BadInput, match=r"date=…,model=…: there are date, model, input"):
            usage_exports.parse_columns(wrong)


# -- hostile files -----------------------------------------------------------------------------------------------------
HEAD = "date,model,input,output,cost\n2026-11-03,m,1,2,3\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2026-11-03,m,-5,2,3", "Line 3, column 'input': '-5' is negative."),
        ("2026-11-03,m,1.5,2,3", "Line 3, column 'input': '1.5' is not a whole number."),
        ("2026-11-03,m,1e300,2,3", "Line 3, column 'input': '1e300' is more than anybody uses."),
        ("2026-11-03,m,NaN,2,3", "Line 3, column 'input': 'NaN' is not a number."),
        ("2026-11-03,m,1,2,Infinity", "Line 3, column 'cost': 'Infinity' is not a number."),
        ("2026-11-03,m,1,2,1e12", "Line 3, column 'cost': '1e12' is more than anybody pays."),
        ("2026-11-03,m,=1+1,2,3", "Line 3, column 'input': '=1+1' is not a number."),
        ('2026-11-03,m,"=HYPERLINK(""http://x"")",2,3', "is not a number"),
        ("2026-11-03,m,1,2,1.2.3", "Line 3, column 'cost': '1.2.3' is not a number."),
        ("2026-13-03,m,1,2,3", "Line 3, column 'date': '2026-13-03' is not a date."),
        ("9" * 60 + ",m,1,2,3", "Line 3, column 'date'"),
        ("1e9999,m,1,2,3", "Line 3, column 'date': '1e9999' is not a date."),
        ("0001-01-01T00:00:00+14:00,m,1,2,3", "Line 3, column 'date'"),
        ("1926-11-03,m,1,2,3", "is a date of another age"),
        ('2026-11-03,"m,1,2,3' + "x" * 200_000, "Line 3 cannot be cut into cells: field larger than field limit (131072)."),
    ],
)
def test_what_cannot_be_read_is_named_by_line_and_column(row: str, said: str) -> None:
    assert said in fault(HEAD + row + "\n")


def test_a_cell_is_text_and_nothing_else() -> None:
    [first, second] = rows(HEAD + "2026-11-03,\"=cmd|'/c calc'!A1\x1b[31m\x00\u202e\nnext\",,,\n")
    assert first.model == "m"
    assert second.model == "=cmd|'/c calc'!A1 [31m next"
    assert (second.input_tokens, second.cost_usd) == (0, 0)
    assert len(rows(HEAD + f"2026-11-03,{'m' * 9000},1,2,3\n")[1].model) == usage_cells.NAME_MAX


def test_a_row_without_a_day_is_passed_over_and_a_short_one_is_filled_up() -> None:
    assert [row.line for row in rows(HEAD + ",m,1,2,3\n2026-11-04\n")] == [2, 4]


def test_a_refund_is_a_negative_cost() -> None:
    found = [row.cost_usd for row in rows(HEAD + "2026-11-03,m,1,2,-0.5\n2026-11-03,m,1,2,($1.25)\n")]
    assert found == [Decimal(3), Decimal("-0.5"), Decimal("-1.25")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "No line with known columns"),
        (b"\n\n\n", "No line with known columns"),
        (b"hello\nworld\n", "No line with known columns"),
        (b"date,requests\n2026-11-03,3\n", "No line with known columns"),
        (b"PK\x03\x04 and so on", "spreadsheet or an archive"),
        (b"\x1f\x8b\x08 and so on", "compressed"),
        (b"\xff" * 3_000_000, "Line 1 does not end"),
        (b"x\n" * 100 + HEAD.encode(), "No line with known columns"),
    ],
)
def test_a_file_that_is_no_export_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "export.csv").write_bytes(content)
    with pytest.raises(BadInput, match=said), usage_exports.opened(tmp_path / "export.csv") as export:
        list(export.rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_in_the_encodings_that_spreadsheets_write(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "export.csv").write_bytes(HEAD.encode(encoding))
    with usage_exports.opened(tmp_path / "export.csv") as export:
        assert [row.input_tokens for row in export.rows] == [1]
        assert export.measures == {"input", "output", "cost"}


def test_a_file_that_is_not_there_is_a_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"), usage_exports.opened(tmp_path / "none.csv"):
        pass


class _Endless(io.StringIO):
    """A text of as many rows as are asked for, made as they are read."""

    def __init__(self, lines: Iterator[str]) -> None:
        super().__init__()
        self._lines = lines

    def readline(self, _size: int | None = -1, /) -> str:
        return next(self._lines, "")


def test_a_huge_file_is_read_row_by_row() -> None:
    def lines() -> Iterator[str]:
        yield "date,model,input,output,cost\n"
        for number in range(20_000):
            yield f"2026-11-03,model-{number},1,2,0.5\n"

    tracemalloc.start()
    export = usage_exports.read(cast(TextIO, _Endless(lines())))
    assert sum(row.input_tokens for row in export.rows) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000
