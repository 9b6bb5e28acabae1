"""Files of prompts: what is taken, what is wrong with the rest, and that nothing in a file can do harm."""

from __future__ import annotations

import csv
import io
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.contracts.errors import BadInput
from webapp.contracts.texts import clean
from webapp.services.batch_files import COLUMNS_MAX, FAULTS_SHOWN, FILE_MAX_BYTES, Bounds, Faults, Row, from_bytes
from webapp.services.batch_results import safe_cell
from webapp.services.batch_templates import Template

BOUNDS = Bounds(rows=10_000, prompt_chars=16_000)


def read(
    data: bytes | str, name: str = "a.csv", template: str = "", bounds: Bounds = BOUNDS
) -> tuple[list[Row], Faults, list[str]]:
    reader = from_bytes(
        data.encode() if isinstance(data, str) else data, name, Template.read(template) if template else None, bounds
    )
    rows = list(reader)
    return rows, reader.faults, reader.columns


def fault(data: bytes | str, name: str = "a.csv", template: str = "", bounds: Bounds = BOUNDS) -> str:
    """The only fault of a file, in words."""
    _, faults, _ = read(data, name, template, bounds)
    assert faults.total == 1, [str(one) for one in faults.shown]
    return str(faults.shown[0])


# -- what is taken -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_usual_kind_of_csv_is_read(separator: str, mark: str, end: str) -> None:
    text = (
        mark
        + separator.join(("prompt", "n"))
        + end
        + separator.join(('"a, b; ""c""\td"', "1"))
        + end * 3
        + '"x\ny"'
        + separator
    )
    rows, faults, columns = read(text)
    assert not faults.total
    assert columns == ["prompt", "n"]
    assert [(row.number, row.prompt, row.given["n"]) for row in rows] == [(1, 'a, b; "c"\td', "1"), (2, "x\ny", "")]


def test_a_spreadsheet_may_say_its_separator() -> None:
    rows, faults, _ = read("sep=;\r\nprompt;a\r\nx,y;1\r\n")
    assert (faults.total, rows[0].prompt) == (0, "x,y")


def test_json_lines_are_known_by_their_name_or_their_look() -> None:
    for name in ("a.jsonl", "a.ndjson", "a", "a.json"):
        rows, faults, columns = read('{"prompt": "x", "n": 1.5}\n\n{"prompt": "y", "on": true}\n', name)
        assert (faults.total, columns) == (0, ["prompt", "n", "on"])
        assert [row.given for row in rows] == [{"prompt": "x", "n": 1.5}, {"prompt": "y", "on": True}]


def test_a_template_is_filled_with_texts_numbers_and_switches_once() -> None:
    rows, faults, _ = read('{"a": "{{b}}", "b": 2, "on": false}', "a.jsonl", "{{ a }}-{{b}}-{{on}} {{a}} {single} }}")
    assert (faults.total, rows[0].prompt) == (0, "{{b}}-2-false {{b}} {single} }}")


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda name: clean(name).strip() == name and name != "prompt"
)
cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=60).map(clean)
prompts = cells.filter(lambda text: bool(text.strip()))


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(",;\t"), st.lists(names, unique=True, max_size=5))
def test_what_is_written_as_csv_is_read_as_it_was(data: st.DataObject, separator: str, more: list[str]) -> None:
    columns = ["prompt", *more]
    table = data.draw(st.lists(st.tuples(prompts, *(cells for _ in more)), min_size=1, max_size=6))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL)
    # A single column says no separator: then it is the comma, and quotation marks make it unmistakable.
    writer.writerows([columns, *table])
    rows, faults, found = read(out.getvalue())
    if any(mark in name for mark in ',;\t"' for name in more):
        return  # names with separators in them may be taken for a header of another kind
    assert not faults.total, [str(one) for one in faults.shown]
    assert found == columns
    assert [tuple(row.given.values()) for row in rows] == table
    assert [row.prompt for row in rows] == [row[0].strip() for row in table]


scalars = st.one_of(cells, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(prompts, st.dictionaries(names, scalars, max_size=4)), min_size=1, max_size=6), st.booleans())
def test_what_is_written_as_json_lines_is_read_as_it_was(lines: list[tuple[str, dict[str, object]]], plain: bool) -> None:
    given_lines = [{"prompt": prompt, **more} for prompt, more in lines]
    text = "\n".join(json.dumps(line, ensure_ascii=plain) for line in given_lines)
    rows, faults, _ = read(text, "a.jsonl")
    assert not faults.total, [str(one) for one in faults.shown]
    assert [row.given for row in rows] == given_lines


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300), st.sampled_from(["a.csv", "a.jsonl", "a"]), st.sampled_from(["", "ask {{prompt}}"]))
def test_no_bytes_whatsoever_break_the_reader(data: bytes, name: str, template: str) -> None:
    for start in (b"", b"prompt,x\n", b'{"prompt": '):
        rows, faults, _ = read(start + data, name, template)
        assert rows or faults.total
        assert len(faults.shown) == min(faults.total, FAULTS_SHOWN)
        for row in rows:
            assert row.prompt == clean(row.prompt).strip() != ""
            json.dumps(row.given, allow_nan=False).encode()


# -- what is wrong -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        ("prompt\n", "no rows"),
        ("\n\n", "no rows"),
        ("city\nBonn\n", "no column “prompt”"),
        ("prompt,prompt\na,b\n", "“prompt” is there twice"),
        ("prompt,,x\na,b,c\n", "Column 2 has no name"),
        ("prompt,x\na\n", "Row 1 (line 2): It has 1 values, and the header has 2 columns"),
        ("prompt,x\na,b,c\n", "It has 3 values"),
        ('prompt\na\n"b\nc', "Row 2 (line 3): A value is too long, or a quotation mark in it is never closed"),
        ('prompt\n"a"b\n', "A quotation mark within a value is written twice"),
        ("prompt\ra\rb", "old Macs"),
        ("prompt\nok\n\0\n", "Row 2 (line 3), column “prompt”: It has a NUL character"),
        ("prompt\nok\n" + "x" * 16_001, "Row 2 (line 3), column “prompt”: It has 16,001 characters; at most 16,000"),
        ("prompt," + ",".join(f"c{n}" for n in range(COLUMNS_MAX)) + "\n", "51 columns; at most 50"),
        ("prompt,x\na,1\n ,2\n", "Row 2 (line 3), column “prompt”: It is empty"),
    ],
)
def test_csv_that_cannot_be_taken_says_where_and_why(text: str, words: str) -> None:
    assert words in fault(text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "x"', "It is no JSON"),
        ("hello", "It is no JSON"),
        ('"hello"', "It is no JSON object"),
        ('{"a": 1}', "There is no “prompt”"),
        ('{"prompt": 1}', "It is no text"),
        ('{"prompt": null}', "It is empty"),
        ('{"prompt": "x", "prompt": "y"}', "column “prompt”: This name is there twice"),
        ('{"prompt": "x", "n": NaN}', "NaN is no value in JSON"),
        ('{"prompt": "x", "n": -Infinity}', "-Infinity is no value"),
        ('{"prompt": "x", "n": 1e999}', "too large a number"),
        ('{"prompt": "x", "n": ' + "9" * 5000 + "}", "too many digits"),
        ('{"prompt": "x", "n": [1]}', "column “n”: It is an object or a list"),
        ('{"prompt": "x", "n": {"a": 1}}', "column “n”: It is an object or a list"),
        ('{"prompt": ' + "[" * 100_000, "nested too deeply"),
        ('{"prompt": "a\\u0000b"}', "NUL character"),
        ('{"prompt": "x", " ": 1}', "1 to 255 characters"),
        ('{"prompt": "x", "a": 1, " a": 1}', "must differ"),
    ],
)
def test_json_that_cannot_be_taken_says_where_and_why(line: str, words: str) -> None:
    said = fault('{"prompt": "fine"}\n\n' + line + "\n", "a.jsonl")
    assert words in said
    assert said.startswith("Row 2 (line 3)")


def test_a_json_array_is_not_json_lines() -> None:
    assert "JSON array" in fault('[{"prompt": "x"}]', "a.json")


def test_too_many_names_in_json_lines_end_the_reading() -> None:
    wide = json.dumps({"prompt": "x"} | {f"c{n}": n for n in range(200_000)})
    began = time.monotonic()
    assert "more than 50 names" in fault(wide + "\n" + wide, "a.jsonl")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("prompt\nx\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04rest", "a spreadsheet or a ZIP file"),
        ("prompt\nfine\nKöln\n".encode("latin-1"), "Row 2 (line 3): Line 3 is not UTF-8: byte 2 of it is 0xf6"),
        (b'prompt\nfine\n"two\nlines \xff"\n', "Row 2 (line 3): Line 4 is not UTF-8: byte 7"),
    ],
)
def test_what_is_not_utf_8_says_where(data: bytes, words: str) -> None:
    assert words in fault(data)


def test_a_template_names_what_the_file_has_not_and_what_is_empty() -> None:
    assert "wants “town”, and there is no such column: the first line has “city”" in fault("city\nBonn\n", template="{{town}}")
    rows, faults, _ = read("city,n\nBonn,1\n ,2\n,\n", template="{{city}}")
    assert [row.number for row in rows] == [1]
    assert [str(one) for one in faults.shown] == [
        "Row 2 (line 3), column “city”: It is empty, and the template wants it: fill it in, or remove the row."
    ]
    assert "It is missing" in fault('{"n": 1}', "a.jsonl", "{{city}}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plain", "no {{name}} in it"),
        ("{{}}", "stands the name of a column"),
        ("{{a}} and {{b", "not closed"),
        ("{{a\nb}}", "not closed"),
        ("{{" + "x" * 101 + "}}", "1 to 100 characters"),
    ],
)
def test_a_template_that_cannot_be_meant_says_why(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words.replace("{", r"\{").replace("}", r"\}")) as refused:
        Template.read(text)
    assert refused.value.field == "template"


@pytest.mark.parametrize("text", ["{{a.__class__}}", "{{a|upper}}", "{{ 1+1 }}", "{{config}}"])
def test_a_template_is_names_and_never_code(text: str) -> None:
    assert "there is no such column" in fault("a\nx\n", template=text)


def test_a_filled_prompt_has_a_longest_length_and_all_together_too() -> None:
    assert "The prompt has" in fault("a\n" + "x" * 9000 + "\n", template="{{a}}{{a}}")
    long = "{{a}}" + "y" * 15_000
    _, faults, _ = read("a\n" + "x\n" * 4000, template=long)
    assert faults.total == 1
    assert "characters together: split the file" in str(faults.shown[0])


def test_rows_and_bytes_have_a_most() -> None:
    assert "more than 3 rows" in fault("prompt\n" + "x\n" * 4, bounds=Bounds(3, 100))
    assert not read("prompt\n" + "x\n" * 3, bounds=Bounds(3, 100))[1].total
    words = "x" * 99 + "\n"
    big = "prompt\n" + words * (FILE_MAX_BYTES // 100 + 1)
    assert "larger than 20 MB" in fault(big, bounds=Bounds(10**6, 16_000))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"prompt,x\n" + b" ,\xff\n" * 10_000),
        ("a.jsonl", b'{"prompt": ["x"], "y": {}}\n' * 10_000),
        ("a.jsonl", b"{\n" * 10_000),
    ],
)
def test_ten_thousand_bad_rows_are_told_of_quickly_and_briefly(name: str, data: bytes) -> None:
    began = time.monotonic()
    rows, faults, _ = read(data, name)
    assert time.monotonic() - began < 2
    assert (rows, len(faults.shown)) == ([], FAULTS_SHOWN)
    assert faults.total >= 10_000
    assert sum(len(str(one)) for one in faults.shown) < 30_000


def test_a_quotation_mark_that_is_never_closed_does_not_swallow_twenty_megabytes() -> None:
    began = time.monotonic()
    assert "never closed" in fault(b'prompt\n"' + b"aaaa\n" * 3_900_000)
    assert time.monotonic() - began < 2


# -- what goes out -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-x", "@sum", "\t=1", " =1", "\n=1", "＝1", "|calc", "%a", "-1+1", "=-1"])
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "x", "-5", "+1.5", "-0,25", "a=b", "5", "'=1"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert safe_cell(text) == text


def test_json_values_become_cells() -> None:
    assert [safe_cell(value) for value in (None, True, -1, 2.5)] == ["", "true", "-1", "2.5"]
