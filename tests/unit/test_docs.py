"""The reference pages say what the code says, and what the other pages name exists and is so."""

from __future__ import annotations

import contextlib
import inspect
import re
import shlex
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from dotenv import dotenv_values

from plugins.providers.prsm.config import DIALECTS
from webapp import cli
from webapp import plugin as public
from webapp.cli import reference
from webapp.plugin import Capability, Provider
from webapp.registry import Registry
from webapp.routing import guard, prices
from webapp.routing.prices import Counted, Rates
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
        if isinstance(field.default, bool):
            assert default.strip("`").lower() in (str(field.default).lower(), str(int(field.default)))
        elif isinstance(field.default, int | float):
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
                assert parameter.help, f"{context.command_path} {parameter.name}"


# -- what pages written by hand name -----------------------------------------------------------------------------------
WRITTEN = (
    "README.md",
    "CHANGELOG.md",
    "docs/api.md",
    "docs/architecture.md",
    "docs/jobs.md",
    "docs/limits.md",
    "docs/openai.md",
    "docs/operations.md",
    "docs/plugins.md",
    "docs/providers.md",
    "docs/routing.md",
    "docs/webhooks.md",
)
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in WRITTEN}
OPERATIONS, PLUGINS, PROVIDERS = (TEXTS[f"docs/{name}.md"] for name in ("operations", "plugins", "providers"))

written = pytest.mark.parametrize("name", WRITTEN)


def built_in() -> Registry:
    registry = Registry()
    registry.load({})
    return registry


BUILT_IN = built_in()
GIVEN: list[Provider] = [*BUILT_IN.providers.values(), *BUILT_IN.image_providers.values()]
KNOWN = CORE.keys() | VARIABLES.keys() | {variable.name for provider in GIVEN for variable in provider.environment}
NO_SETTINGS = {"SWITCHHOOK_CONTRACT"}
"""What a plugin's module may say; no variable."""


def blocks(page: str, *kinds: str) -> list[str]:
    """The contents of the page's code blocks of these kinds."""
    return [text for kind, text in re.findall(r"^ *```(\w+)\n(.*?)^ *```$", page, re.M | re.S) if kind in kinds]


def found_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words after `switchhook` name, and the words that are left. An unknown one fails."""
    command: click.Command = cli.main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(click.Context(command), words[0])
        assert child is not None, f"there is no command {words[0]!r}"
        command, words = child, words[1:]
    return command, words


@written
def test_a_page_names_only_settings_that_exist(name: str) -> None:
    beginnings = "|".join(sorted({variable.partition("_")[0] for variable in KNOWN}))
    named = set(re.findall(rf"\b(?:{beginnings})_[A-Z0-9_]*[A-Z0-9]\b", TEXTS[name]))
    assert named
    assert named - KNOWN - NO_SETTINGS == set()


TELLS_DEFAULTS = ("api", "jobs", "limits", "openai", "operations", "routing", "webhooks")


@pytest.mark.parametrize("name", [f"docs/{name}.md" for name in TELLS_DEFAULTS])
def test_a_default_that_a_page_tells_is_the_settings_own(name: str) -> None:
    told = re.findall(r"`(SWITCHHOOK_\w+)`(?: [a-z]+){0,6}\s\((\d+)\)", TEXTS[name])
    told += re.findall(r"^\| `(SWITCHHOOK_\w+)` \| (\d+) \|", TEXTS[name], re.M)
    assert told
    assert [(setting, default) for setting, default in told if CORE[setting].default != float(default)] == []


@written
def test_a_page_names_only_commands_and_options_that_exist(name: str) -> None:
    for text in re.findall(r"(?<!`)`switchhook(\s[^`]+)`(?!`)", TEXTS[name]):
        command, rest = found_command(shlex.split(text))
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options | {"--help"}, text


@written
def test_every_command_in_a_pages_examples_can_be_typed_like_that(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("usage.csv", "questions.txt", "places.csv", "questions.jsonl"):
        Path(given).touch()
    lines = [line.strip() for block in blocks(TEXTS[name], "console", "shell") for line in block.splitlines()]
    typed = [line for line in lines if line.removeprefix(".venv/bin/").startswith("switchhook")]
    assert typed or name in ("CHANGELOG.md", "docs/architecture.md", "docs/openai.md")
    for line in typed:
        command, rest = found_command(shlex.split(line, comments=True)[1:])
        assert not isinstance(command, click.Group) or (command.invoke_without_command and not rest), line
        command.make_context(command.name, rest).close()


@written
def test_every_setting_in_a_pages_examples_can_be_set_like_that(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(TEXTS[name], "ini"):
        (tmp_path / ENV_FILE).write_text(block)
        assert dotenv_values(tmp_path / ENV_FILE).keys() <= KNOWN
        guard.Guard().allow(read_settings().allow_outbound)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as they are made of them."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@written
def test_everything_that_a_page_links_to_is_there(name: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[name]):
        linked = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), f"{target}#{anchor}"


# -- providers ---------------------------------------------------------------------------------------------------------
CHEAP_HOUR = datetime(2026, 11, 22, 12, tzinfo=UTC)
UNKNOWN_PRICE = Rates.of(15, 75, 0.5)


def rows_after(words: str) -> dict[str, list[str]]:
    """The table that follows these words on the providers' page, by its first cell."""
    table = PROVIDERS.partition(f"\n{words}")[2].partition("\n|")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first: rest for first, *rest in cells}


def plain(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


def test_every_provider_of_texts_is_in_the_table_with_what_it_uses_can_and_costs() -> None:
    rows = rows_after("Texts, in the order")
    by_preference = sorted(BUILT_IN.providers.values(), key=lambda p: p.preference)
    assert list(rows) == [f"`{provider.name}`" for provider in by_preference]
    for provider in by_preference:
        _, model, sees, gives_json, tools, dollars = rows[f"`{provider.name}`"]
        assert model == f"`{provider.default_model}`" if provider.default_model else "`" not in model
        able = provider.model_info(provider.default_model).capabilities
        if able is not None:
            known = (Capability.VISION, Capability.JSON, Capability.TOOLS)
            assert (sees, gives_json, tools) == tuple("yes" if each in able else "no" for each in known)
        assert able is not None or "yes" not in (sees, tools)
        found = [
            prices.price(provider.price_as, provider.default_model, counted, fallback=UNKNOWN_PRICE, at=CHEAP_HOUR)
            for counted in (Counted(input_tokens=1000), Counted(output_tokens=1000))
        ]
        if found[0].known:
            assert dollars == " / ".join(plain(price.cost_microusd / 1000) for price in found)
        else:
            assert "/" not in dollars


def test_every_provider_of_pictures_is_in_the_table_with_its_model_and_price() -> None:
    rows = rows_after("Pictures:")
    by_preference = sorted(BUILT_IN.image_providers.values(), key=lambda p: p.preference)
    assert list(rows) == [f"`{provider.name}`" for provider in by_preference]
    for provider in by_preference:
        _, model, _, dollars = rows[f"`{provider.name}`"]
        assert model == f"`{provider.default_model}`"
        price = prices.price(provider.price_as, provider.default_model, Counted(pictures=1), fallback=UNKNOWN_PRICE)
        assert dollars == (plain(price.cost_microusd / 1e6) if price.known else "set it yourself")


def test_a_providers_warning_is_on_the_page_word_for_word() -> None:
    page = " ".join(PROVIDERS.replace("\n> ", " ").split())
    warnings = [provider.warning for provider in GIVEN if provider.warning]
    assert warnings
    assert [warning for warning in warnings if warning not in page] == []


def test_all_of_prsms_contracts_are_explained() -> None:
    rows = {first.split("`")[1]: rest for first, rest in rows_after("`PRSM_API_URL`, and").items()}
    assert rows.keys() == DIALECTS.keys()
    for dialect in DIALECTS.values():
        assert f"`{dialect.path}`" in rows[dialect.name][-1]


# -- architecture ------------------------------------------------------------------------------------------------------
ARCHITECTURE = TEXTS["docs/architecture.md"]


def test_the_counts_on_the_architecture_page_are_those_that_are_tested() -> None:
    tests = (ROOT / "tests/integration/test_counts.py").read_text("utf-8")
    told = re.findall(r"^\| [^|]+ \| `(test_\w+)` \| (\d+) \| (\d+) \|$", ARCHITECTURE, re.M)
    tested = [
        (name, database[1], trips[1])
        for name, body in re.findall(r"^def (test_\w+)\((.*?)(?=^(?:def|class|@)|\Z)", tests, re.M | re.S)
        if (database := re.search(r"counted\.database == (\d+)", body))
        and (trips := re.search(r"counted\.trips == (?:pieces_of\(.*\) \+ )?(\d+)$", body, re.M))
    ]
    assert len(tested) >= 6
    assert told == tested


def test_every_module_that_the_architecture_page_names_is_there() -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", ARCHITECTURE))
    assert len(named) > 20
    folders = (ROOT, ROOT / "webapp", ROOT / "webapp" / "routing")
    assert [path for path in named if not any((folder / path).exists() for folder in folders)] == []


# -- operations --------------------------------------------------------------------------------------------------------
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
