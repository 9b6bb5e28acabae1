"""The reference pages say what the code says, and the example in them works."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dotenv import dotenv_values

from tests.fakes.server import FakeReply, FakeRequest, FakeServer, Fault
from webapp import plugin as public
from webapp.cli import reference
from webapp.plugin import (
    BadCredentials,
    MalformedAnswer,
    ProviderError,
    QuotaQuestion,
    RateLimited,
    Rejected,
    Role,
    Text,
    TextCall,
    TimedOut,
    Turn,
    Unavailable,
    Usage,
)
from webapp.registry import Registry
from webapp.routing import http as pooled
from webapp.settings import ENV_FILE, Settings, read_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = reference.pages(ROOT)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_generated_page_is_what_the_code_says(path: Path) -> None:
    assert path.is_file(), "missing: run `python -m webapp.cli.reference`"
    assert path.read_text("utf-8") == PAGES[path], "out of date: run `python -m webapp.cli.reference`"


# -- hooks -------------------------------------------------------------------------------------------------------------
def test_every_hook_is_documented_with_its_exact_arguments_and_no_other_is() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    documented = re.findall(r"^### `(\w+)\((.*)\)`$", page, re.M)
    declared = [(name, ", ".join(inspect.signature(hook).parameters)) for name, hook in reference.hooks().items()]
    assert documented == declared
    assert len(declared) >= 11


def test_every_hook_has_a_docstring_of_its_own() -> None:
    texts = [inspect.getdoc(hook) for hook in reference.hooks().values()]
    assert all(texts)
    assert len(set(texts)) == len(texts)


def test_everything_that_plugins_may_import_exists_and_is_documented() -> None:
    for name in public.__all__:
        thing = getattr(public, name)
        if inspect.isclass(thing):
            assert (inspect.getdoc(thing) or "").strip(), name


# -- settings ----------------------------------------------------------------------------------------------------------
CORE = {str(field.alias): field for field in Settings.model_fields.values()}
VARIABLES = {v.name: v for variables in reference.plugin_variables().values() for v in variables}


def table_rows(page: str) -> dict[str, list[str]]:
    """The rows of all tables by the variable in their first cell."""
    rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in page.splitlines() if line.startswith("| `"))
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_every_setting_and_every_variable_is_in_the_table_with_default_and_meaning() -> None:
    rows = table_rows((ROOT / "docs" / "settings.md").read_text("utf-8"))
    assert rows.keys() == CORE.keys() | VARIABLES.keys()
    for name, field in CORE.items():
        kind, default, meaning = rows[name]
        assert kind
        assert meaning == (field.description or "").replace("|", "\\|")
        if isinstance(field.default, int | float):
            assert float(default.strip("`")) == field.default
    for name, variable in VARIABLES.items():
        _, default, meaning = rows[name]
        assert meaning == variable.meaning.replace("|", "\\|")
        assert default.strip("`") == variable.default


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in CORE.items() if not field.description] == []
    assert [name for name, variable in VARIABLES.items() if not variable.meaning] == []


def test_the_example_file_sets_nothing_and_with_everything_taken_in_sets_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    assert [line for line in example.splitlines() if line and not line.startswith("#")] == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / ENV_FILE).write_text(re.sub(r"^#(?=[A-Z_0-9]+=)", "", example, flags=re.M))
    taken_in = dotenv_values(tmp_path / ENV_FILE)
    assert taken_in.keys() == CORE.keys() | VARIABLES.keys()
    with_all = read_settings()
    (tmp_path / ENV_FILE).unlink()
    assert with_all == read_settings()
    for name, variable in VARIABLES.items():
        assert taken_in[name] in ("", variable.default)


def test_every_variable_is_explained_right_above_it_in_the_example_file() -> None:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if found := re.match(r"#([A-Z_0-9]+)=", line):
            name = found[1]
            meaning = CORE[name].description if name in CORE else VARIABLES[name].meaning
            assert lines[number - 1].startswith(f"# {meaning}"), name


def test_no_secret_has_a_default() -> None:
    assert [v.name for v in VARIABLES.values() if v.secret and v.default] == []


def test_what_is_named_like_a_secret_is_declared_one() -> None:
    named = [n for n in VARIABLES if n.endswith(("_KEY", "_TOKEN", "_SECRET")) and n != "TWILIO_API_KEY"]
    assert named
    assert [name for name in named if not VARIABLES[name].secret] == []


# -- commands ----------------------------------------------------------------------------------------------------------
def test_every_command_and_every_option_has_a_help_text() -> None:
    for context in reference.commands():
        assert context.command.help, context.command_path
        for parameter in context.command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{context.command_path} {parameter.name}"  # type: ignore[attr-defined]


# -- operations --------------------------------------------------------------------------------------------------------
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def test_the_operations_page_names_only_settings_and_commands_that_exist() -> None:
    named = set(re.findall(r"\b(?:SWITCHHOOK|TWILIO)_[A-Z_]+\b|\b(?:DATABASE_URL|REDIS_URL|SECRET_KEY)\b", OPERATIONS))
    assert len(named) > 10
    assert named <= CORE.keys() | VARIABLES.keys()
    commands = {context.command_path for context in reference.commands()}
    typed = {found.replace("\n", " ") for found in re.findall(r"`(switchhook\s[a-z]+(?: [a-z]+)?)`", OPERATIONS)}
    assert len(typed) > 5
    assert typed <= commands


def test_every_page_that_the_operations_page_links_to_exists() -> None:
    linked = re.findall(r"\]\(([^)#]+)\)", OPERATIONS)
    assert linked
    assert [page for page in linked if not (ROOT / "docs" / page).is_file()] == []


def test_the_backup_on_the_operations_page_copies_a_database_that_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = re.findall(r'^\.venv/bin/python -c "(.*)"$', OPERATIONS, re.M)
    (tmp_path / "instance").mkdir()
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(sqlite3.connect("instance/switchhook.db", isolation_level=None)) as used:
        used.execute("PRAGMA journal_mode=WAL")
        used.execute("CREATE TABLE kept (word)")
        used.execute("INSERT INTO kept VALUES ('here')")
        subprocess.run([sys.executable, "-c", code], check=True)
    with contextlib.closing(sqlite3.connect("backup.db")) as copy:
        assert copy.execute("SELECT word FROM kept").fetchall() == [("here",)]


# -- the example -------------------------------------------------------------------------------------------------------
def example() -> str:
    [code] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "plugins.md").read_text("utf-8"), re.M | re.S)
    return code


class FakeParrot(FakeServer):
    """The vendor that the example is written for."""

    def handle(self, request: FakeRequest) -> FakeReply:
        if request.header("Authorization") != "Bearer right":
            return FakeReply.json({}, status=401)
        if request.path == "/v1/me":
            return FakeReply.json({"name": "us"})
        turns = request.json()["turns"]
        pieces: list[dict[str, Any]] = [{"text": f"{word} "} for word in turns[-1]["text"].split()]
        pieces.append({"tokens_in": len(turns), "tokens_out": len(pieces)})
        return FakeReply(200, {}, (json.dumps(piece).encode() + b"\n" for piece in pieces))


@pytest.fixture
def parrot(tmp_path: Path) -> Iterator[FakeParrot]:
    (tmp_path / "parrot.py").write_text(example())
    with FakeParrot() as fake:
        yield fake
    sys.modules.pop("switchhook_plugins_parrot", None)


def registry_with_example(folder: Path, **settings: str) -> Registry:
    registry = Registry()
    registry.load(settings, folder)
    [record] = [record for record in registry.records if record.name == "parrot"]
    assert (record.error, record.version, record.source) == ("", "1.0", "folder")
    return registry


def ask(registry: Registry, text: str = "pretty polly") -> list[Text | Usage]:
    call = TextCall("r1", "green-2", (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, text)), 100, 5.0)
    with pooled.call_limits(timeout_s=5, silence_s=1):
        return list(registry.providers["parrot"].stream(call, pooled.client()))


def test_the_example_plugin_loads_from_a_folder_and_its_provider_answers(parrot: FakeParrot, tmp_path: Path) -> None:
    registry = registry_with_example(tmp_path, PARROT_API_KEY="right", PARROT_BASE_URL=parrot.url)
    provider = registry.providers["parrot"]
    assert provider.missing() == ""
    *pieces, usage = ask(registry)
    assert pieces == [Text("pretty "), Text("polly ")]
    assert isinstance(usage, Usage)
    assert (usage.input_tokens, usage.output_tokens) == (2, 2)
    assert provider.check(pooled.client()).ok
    question = QuotaQuestion("p", "o", "free", {}, "chat", "sms")
    [limit] = registry.policies["parrot-day"].limits(question)
    assert limit.maximum == 1000


def test_the_example_plugin_says_what_is_missing_and_what_is_wrong(parrot: FakeParrot, tmp_path: Path) -> None:
    registry = registry_with_example(tmp_path)
    assert registry.providers["parrot"].missing() == "PARROT_API_KEY is not set"
    wrong = registry_with_example(tmp_path, PARROT_API_KEY="wrong", PARROT_BASE_URL=parrot.url)
    assert "PARROT_API_KEY" in wrong.providers["parrot"].check(pooled.client()).cure
    with pytest.raises(BadCredentials):
        ask(wrong)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=429, headers={"Retry-After": "7"}), RateLimited),
        (Fault(status=503), Unavailable),
        (Fault(status=400), Rejected),
        (Fault(drop=True), Unavailable),
        (Fault(hang=True), TimedOut),
        (Fault(status=200, body=b"<html>"), MalformedAnswer),
        (Fault(status=200, body=b'{"text": "half"}\n'), MalformedAnswer),
        (Fault(status=200, body=b"7\n"), MalformedAnswer),
    ],
)
def test_the_example_plugin_names_every_failure_as_the_contract_wants(
    parrot: FakeParrot, tmp_path: Path, fault: Fault, error: type[ProviderError]
) -> None:
    registry = registry_with_example(tmp_path, PARROT_API_KEY="right", PARROT_BASE_URL=parrot.url)
    parrot.faults.append(fault)
    with pytest.raises(error) as caught:
        ask(registry)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after_s == 7


def test_the_example_plugin_does_not_raise_in_its_check(parrot: FakeParrot, tmp_path: Path) -> None:
    registry = registry_with_example(tmp_path, PARROT_API_KEY="right", PARROT_BASE_URL="http://127.0.0.1:9")
    assert not registry.providers["parrot"].check(httpx.Client(trust_env=False)).ok
