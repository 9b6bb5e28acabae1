"""Settings: where they come from, what is refused, and what is made of them."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from webapp.contracts.errors import SetupError
from webapp.settings import CORE_SECRETS, Settings, read_settings


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_runs_without_any_setting() -> None:
    settings = read_settings()
    assert settings.effective_database_url == f"sqlite:///{Path('instance').resolve() / 'switchhook.db'}"
    assert settings.effective_redis_url == f"unix://{Path('instance').resolve() / 'queue' / 'queue.sock'}"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_the_environment_comes_before_the_file_and_the_file_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("SWITCHHOOK_PORT=9001\nSWITCHHOOK_HOST=0.0.0.0\nMY_PLUGIN=file\nOTHER=file\n")
    monkeypatch.setenv("SWITCHHOOK_PORT", "9002")
    monkeypatch.setenv("MY_PLUGIN", "environment")
    settings = read_settings()
    assert (settings.port, settings.host) == (9002, "0.0.0.0")
    given = settings.for_plugins()
    assert (given["MY_PLUGIN"], given["OTHER"]) == ("environment", "file")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_PORT", "")
    monkeypatch.setenv("MY_PLUGIN", "")
    settings = read_settings()
    assert settings.port == 8000
    assert "MY_PLUGIN" not in settings.for_plugins()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SWITCHHOOK_PORT", "0"),
        ("SWITCHHOOK_PORT", "http"),
        ("SWITCHHOOK_WEB_THREADS", "1000"),
        ("SWITCHHOOK_PUBLIC_URL", "bot.example.com"),
        ("SWITCHHOOK_PUBLIC_URL", "https://bot.example.com/?a=1"),
        ("SWITCHHOOK_PUBLIC_URL", "ftp://bot.example.com"),
        ("SWITCHHOOK_TIME_ZONE", "Europe/Nowhere"),
        ("SWITCHHOOK_TIME_ZONE", "../../etc/passwd"),
        ("SWITCHHOOK_ADMIN_EMAIL", "admin"),
        ("SWITCHHOOK_CHAT_MODEL", "gpt-4.1-mini"),
        ("SWITCHHOOK_SMS_REGISTRATION", "Open"),
        ("SWITCHHOOK_LOG_LEVEL", "LOUD"),
        ("SWITCHHOOK_CEILING_INPUT_USD", "-1"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_environment_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=f"^Wrong setting: {name}: "):
        read_settings()


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHHOOK_PORT", "http")
    monkeypatch.setenv("SWITCHHOOK_TIME_ZONE", "Nowhere")
    with pytest.raises(SetupError) as caught:
        read_settings()
    assert "SWITCHHOOK_PORT" in caught.value.message
    assert "SWITCHHOOK_TIME_ZONE" in caught.value.message


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("sqlite:////srv/x.db", "sqlite:////srv/x.db"),
    ],
)
def test_every_usual_spelling_of_a_database_url_works(given: str, used: str) -> None:
    assert read_settings(database_url=given).effective_database_url == used


def test_a_public_address_loses_its_last_slash_and_decides_about_secure_cookies() -> None:
    assert read_settings(public_url="https://bot.example.com/").public_url == "https://bot.example.com"
    assert read_settings(public_url="https://bot.example.com").secure
    assert not read_settings(public_url="http://bot.example.com").secure
    assert not read_settings().secure


def test_a_socket_in_a_very_deep_directory_gets_a_short_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    path = read_settings(data_dir=deep).queue_socket
    assert len(str(path)) < 100
    assert path == read_settings(data_dir=deep).queue_socket
    assert path != read_settings(data_dir=deep / "other").queue_socket


def test_a_secret_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path / "data")
    key = settings.load_secret_key()
    assert len(key) == 64
    assert read_settings(data_dir=tmp_path / "data").load_secret_key() == key
    assert stat.S_IMODE((tmp_path / "data" / "secret_key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret_key"]


def test_processes_that_start_together_agree_on_one_secret_key(tmp_path: Path) -> None:
    gate, keys = threading.Barrier(8), []

    def start() -> None:
        settings = read_settings(data_dir=tmp_path / "data")
        gate.wait(10)
        keys.append(settings.load_secret_key())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_given_secret_key_is_used_and_nothing_is_written(tmp_path: Path) -> None:
    settings = read_settings(data_dir=tmp_path / "data", secret_key=SecretStr("given"))
    assert settings.load_secret_key() == "given"
    assert not (tmp_path / "data").exists()


def test_a_data_directory_that_cannot_be_made_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="SWITCHHOOK_DATA_DIR"):
        read_settings(data_dir=tmp_path / "file").load_secret_key()


def test_plugins_see_none_of_the_cores_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CORE_SECRETS:
        monkeypatch.setenv(name, "secret-of-the-core-0123456789")
    (tmp_path / ".env").write_text("".join(f"{name}=secret-of-the-core-0123456789\n" for name in CORE_SECRETS))
    given = Settings.model_construct(public_url="").for_plugins()
    assert "secret-of-the-core-0123456789" not in given.values()


def test_every_secret_of_the_core_is_kept_from_plugins() -> None:
    secret = {f.alias for f in Settings.model_fields.values() if f.annotation is SecretStr}
    assert secret <= CORE_SECRETS


def test_settings_do_not_show_their_secrets() -> None:
    settings = read_settings(secret_key=SecretStr("very-secret-key"), admin_password=SecretStr("very-secret-word"))
    assert "very-secret" not in repr(settings)
    assert "very-secret" not in str(settings)


def test_a_new_data_directory_is_closed_to_other_users_and_one_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.mkdir(mode=0o750)
    for folder in (new, old):
        read_settings(data_dir=folder).load_secret_key()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (new, old)] == [0o700, 0o750]
    assert stat.S_IMODE((new / "secret_key").stat().st_mode) == 0o600
