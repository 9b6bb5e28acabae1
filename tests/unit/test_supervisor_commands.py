"""The `switchhook` command itself, and what it tells people to type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from webapp.cli import COMMANDS, LazyGroup, embedded_queue, main, processes, up
from webapp.contracts.errors import BadInput, SetupError
from webapp.settings import read_settings


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_page(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"main {name}" in result.output


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; from webapp.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted(m for m in sys.modules if m.startswith('webapp.cli.')))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[-1] == "[]"
    assert all(any(line.startswith(f"  {name} ") for line in said) for name in COMMANDS)


def test_an_unknown_command_is_refused_with_a_usage_line() -> None:
    result = CliRunner().invoke(main, ["fly"])
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.output


@pytest.mark.parametrize(("error", "code"), [(SetupError("Set A\nto b."), 2), (BadInput("x", "Set A\nto b."), 1)])
def test_what_the_operator_can_mend_is_one_line_and_an_exit_code(error: Exception, code: int) -> None:
    @click.group(cls=LazyGroup)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise error

    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stderr) == (code, "switchhook: Set A to b.\n")
    assert "fail" in CliRunner().invoke(group, ["--help"]).output


@pytest.mark.parametrize(
    ("argv0", "typed"),
    [
        (".venv/bin/switchhook", ".venv/bin/switchhook"),
        ("{cwd}/.venv/bin/switchhook", ".venv/bin/switchhook"),
        ("{cwd}/my env/bin/switchhook", "'my env/bin/switchhook'"),
        ("/opt/elsewhere/bin/switchhook", "/opt/elsewhere/bin/switchhook"),
        ("{cwd}/bin/switchhook", "switchhook"),
    ],
)
def test_commands_are_told_as_they_are_typed(argv0: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    on_path = tmp_path / "bin" / "switchhook"
    on_path.parent.mkdir()
    on_path.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(on_path.parent))
    monkeypatch.setattr(sys, "argv", [argv0.format(cwd=tmp_path)])
    assert up.own_command() == typed


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")],
)
def test_a_server_on_every_address_is_reached_at_the_local_one(host: str, reached_at: str) -> None:
    assert processes.local_address(read_settings(host=host, port=8123)) == (reached_at, 8123)


def test_an_unknown_queue_is_refused_with_the_ones_that_exist() -> None:
    result = CliRunner().invoke(main, ["worker", "--queues", "high,urgent"])
    assert result.exit_code == 2
    assert "There is no queue 'urgent': choose from high, normal, low." in result.output


def test_the_queue_of_a_data_directory_with_a_long_name_has_a_private_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = read_settings(data_dir=tmp_path / ("a long name" * 20) / "data")
    child = embedded_queue.child(settings, stop_order=0)
    assert settings.queue_socket.is_relative_to(tmp_path)
    assert str(settings.queue_socket) in child.command
    assert settings.queue_socket.parent.stat().st_mode & 0o777 == 0o700


def test_a_socket_directory_that_somebody_else_has_prepared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = read_settings(data_dir=tmp_path / ("a long name" * 20) / "data")
    (tmp_path / "elsewhere").mkdir()
    settings.queue_socket.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SetupError, match="belongs to somebody else"):
        embedded_queue.child(settings, stop_order=0)


def test_the_queue_may_lie_on_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o755)
    (tmp_path / "queue").symlink_to(tmp_path / "disk")
    embedded_queue.child(read_settings(data_dir=tmp_path), stop_order=0)
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o700
