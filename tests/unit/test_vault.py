"""The vault: what it seals it opens again, with any of its keys, in any process; and keys never show."""

from __future__ import annotations

import base64
import re
import stat
import threading
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from webapp.contracts.errors import SetupError
from webapp.settings import Settings, read_settings
from webapp.vault import FILE_NAME, Key, KeyFile, Vault, current_vault, new_key

SECRET = "sk-proj-0123456789abcdef"
KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWITCHHOOK_ENCRYPTION_KEYS", raising=False)


def settings_in(folder: Path, *keys: str) -> Settings:
    return read_settings(data_dir=folder, encryption_keys=SecretStr(",".join(keys)))


def put_in_front(folder: Path) -> Key:
    """What `switchhook keys rotate` does to the file."""
    file, made = KeyFile(settings_in(folder)), new_key()
    with file.locked():
        file.replace([made, *file.read()])
    return made


# -- sealing and opening -----------------------------------------------------------------------------------------------
@given(st.text(alphabet=st.characters()))
def test_what_is_sealed_is_opened_as_it_was_and_does_not_show(text: str) -> None:
    vault = Vault(settings_in(Path("unused"), KEY))
    token = vault.seal(text)
    assert vault.unseal(token) == text
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token)


def test_a_sealed_secret_is_not_in_its_token_and_no_two_tokens_are_alike(tmp_path: Path) -> None:
    vault = Vault(settings_in(tmp_path))
    one, two = vault.seal(SECRET), vault.seal(SECRET)
    assert one != two
    assert SECRET.encode() not in base64.urlsafe_b64decode(one)


@pytest.mark.parametrize("token", ["", "nonsense", "gAAAAA", "\u00e9\u2028", "x" * 100_000, None, 7, ["list"], {}, True])
def test_what_is_no_token_is_a_setup_error_whatever_its_type(tmp_path: Path, token: object) -> None:
    vault = Vault(settings_in(tmp_path))
    vault.seal("so that there is a key")
    with pytest.raises(SetupError, match="enter it again"):
        vault.unseal(token)  # type: ignore[arg-type]
    assert vault.sealed_by(token) is None  # type: ignore[arg-type]


def test_a_token_that_was_changed_is_not_opened(tmp_path: Path) -> None:
    vault = Vault(settings_in(tmp_path))
    token = vault.seal(SECRET)
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[len(raw) // 2] ^= 1
    with pytest.raises(SetupError):
        vault.unseal(base64.urlsafe_b64encode(raw).decode())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("abc", ""),
        ("abcd", "d"),
        ("abcdefgh", "gh"),
        ("a" * 15 + "z", "aaaz"),
        (SECRET, "cdef"),
        ("0123456789abcde", "cde"),
    ],
)
def test_a_hint_is_the_end_of_a_secret_and_at_most_a_quarter_of_it(text: str, shown: str) -> None:
    assert Vault.hint(text) == shown


# -- the file ----------------------------------------------------------------------------------------------------------
def test_the_first_key_is_made_when_something_is_sealed_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    vault = Vault(settings_in(folder))
    assert vault.keys == ()
    with pytest.raises(SetupError):
        vault.unseal(Fernet(KEY).encrypt(b"from elsewhere").decode())
    assert not folder.exists()
    token = vault.seal(SECRET)
    assert [path.name for path in folder.iterdir()] == [FILE_NAME]
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600
    assert Vault(settings_in(folder)).unseal(token) == SECRET


def test_processes_that_seal_first_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    gate, tokens = threading.Barrier(8), []

    def start() -> None:
        vault = Vault(settings_in(tmp_path / "data"))
        gate.wait(10)
        tokens.append(vault.seal(SECRET))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    vault = Vault(settings_in(tmp_path / "data"))
    assert [vault.unseal(token) for token in tokens] == [SECRET] * 8
    assert len(vault.keys) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FILE_NAME]


def test_a_running_process_opens_what_another_sealed_with_a_key_it_has_not_seen(tmp_path: Path) -> None:
    running = Vault(settings_in(tmp_path))
    old = running.seal(SECRET)
    put_in_front(tmp_path)
    new = Vault(settings_in(tmp_path)).seal("newer")
    assert running.unseal(new) == "newer"
    assert running.unseal(old) == SECRET


def test_all_threads_of_a_running_process_notice_a_new_key_at_the_same_time(tmp_path: Path) -> None:
    running = Vault(settings_in(tmp_path))
    running.seal(SECRET)
    for _ in range(20):
        put_in_front(tmp_path)
        token = Vault(settings_in(tmp_path)).seal("newer")
        gate, opened = threading.Barrier(8), []

        def read(gate: threading.Barrier = gate, token: str = token, opened: list[str] = opened) -> None:
            gate.wait(10)
            opened.append(running.unseal(token))

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert opened == ["newer"] * 8


def test_a_running_process_seals_with_the_newest_key_at_once(tmp_path: Path) -> None:
    running = Vault(settings_in(tmp_path))
    running.seal(SECRET)
    newest = put_in_front(tmp_path)
    assert running.sealed_by(running.seal(SECRET)) == newest


def test_a_process_that_started_before_there_was_a_key_finds_the_one_that_another_made(tmp_path: Path) -> None:
    early = Vault(settings_in(tmp_path))
    token = Vault(settings_in(tmp_path)).seal(SECRET)
    assert early.unseal(token) == SECRET


def test_rotating_seals_with_the_newest_key_and_changes_nothing_the_second_time(tmp_path: Path) -> None:
    vault = Vault(settings_in(tmp_path))
    old = vault.seal(SECRET)
    assert vault.rotate(old) == old
    newest = put_in_front(tmp_path)
    new = vault.rotate(old)
    assert vault.sealed_by(old) == vault.keys[1]
    assert vault.sealed_by(new) == vault.keys[0] == newest
    assert vault.rotate(new) == new
    assert vault.unseal(new) == SECRET
    with pytest.raises(SetupError):
        vault.rotate("nonsense")


def test_commands_that_add_keys_at_the_same_time_lose_none(tmp_path: Path) -> None:
    first = KeyFile(settings_in(tmp_path)).make()
    made: list[Key] = []
    threads = [threading.Thread(target=lambda: made.append(put_in_front(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    kept = KeyFile(settings_in(tmp_path)).read()
    assert len(kept) == 9
    assert set(kept) == {*made, *first}
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_a_file_that_is_gone_is_not_made_anew_by_a_process_that_knew_it(tmp_path: Path) -> None:
    vault = Vault(settings_in(tmp_path))
    token = vault.seal(SECRET)
    (tmp_path / FILE_NAME).rename(tmp_path / "away")
    assert vault.unseal(token) == SECRET
    with pytest.raises(SetupError, match="gone: restore"):
        vault.seal("another")
    assert not (tmp_path / FILE_NAME).exists()
    (tmp_path / "away").rename(tmp_path / FILE_NAME)
    assert vault.unseal(vault.seal("another")) == "another"


def test_the_secrets_of_another_installation_say_which_file_is_needed(tmp_path: Path) -> None:
    token = Vault(settings_in(tmp_path / "a")).seal(SECRET)
    vault = Vault(settings_in(tmp_path / "b"))
    vault.seal("its own")
    with pytest.raises(SetupError, match=r"restore .*encryption_keys from the backup"):
        vault.unseal(token)


@pytest.mark.parametrize("content", ["", "\n\n", "{key}\nbroken-line\n", "{key} {key}\n", "\x00\xff\n", "{key}x"])
def test_a_file_that_is_damaged_is_named_and_none_of_it_shown(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content.replace("{key}", KEY))
    with pytest.raises(SetupError, match=FILE_NAME) as caught:
        Vault(settings_in(tmp_path))
    assert KEY not in caught.value.message
    assert "broken-line" not in caught.value.message


def test_blank_lines_line_ends_of_windows_and_repeated_keys_do_no_harm(tmp_path: Path) -> None:
    other = new_key().text
    (tmp_path / FILE_NAME).write_bytes(f"\r\n{KEY}\r\n\r\n  {other}\r\n{KEY}".encode())
    assert Vault(settings_in(tmp_path)).keys == (Key(KEY), Key(other))


def test_a_place_that_cannot_be_used_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(SetupError, match="cannot be used"):
        Vault(settings_in(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="SWITCHHOOK_DATA_DIR"):
        Vault(settings_in(tmp_path / "file")).seal(SECRET)


# -- the setting -------------------------------------------------------------------------------------------------------
def test_keys_of_the_environment_are_used_and_nothing_is_written(tmp_path: Path) -> None:
    old, new = new_key().text, new_key().text
    token = Vault(settings_in(tmp_path / "data", old)).seal(SECRET)
    vault = Vault(settings_in(tmp_path / "data", new, old))
    assert vault.unseal(token) == SECRET
    assert vault.sealed_by(vault.rotate(token)) == Key(new)
    assert vault.source == "SWITCHHOOK_ENCRYPTION_KEYS"
    assert not (tmp_path / "data").exists()
    with pytest.raises(SetupError, match="SWITCHHOOK_ENCRYPTION_KEYS"):
        Vault(settings_in(tmp_path / "data", new)).unseal(token)


def test_who_moved_from_the_file_to_the_setting_is_told_to_take_the_old_keys_along(tmp_path: Path) -> None:
    token = Vault(settings_in(tmp_path)).seal(SECRET)
    with pytest.raises(SetupError, match=re.escape(str(tmp_path / FILE_NAME))):
        Vault(settings_in(tmp_path, KEY)).unseal(token)


@pytest.mark.parametrize("bad", ["secret-but-no-key", KEY[:-2], KEY + "=", "é" * 44, "*" * 43 + "="])
def test_a_bad_key_is_named_by_its_place_and_not_shown(tmp_path: Path, bad: str) -> None:
    with pytest.raises(SetupError) as caught:
        Vault(settings_in(tmp_path, KEY, bad))
    assert caught.value.message.startswith("Wrong setting: SWITCHHOOK_ENCRYPTION_KEYS: key 2 ")
    assert "`switchhook keys make`" in caught.value.message
    assert bad not in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert bad not in str(caught.value.__cause__)


def test_a_setting_of_commas_alone_is_refused_and_blanks_are_not_set(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no key"):
        Vault(settings_in(tmp_path, " ", ""))
    assert Vault(settings_in(tmp_path, "  ")).file is not None


def test_a_key_in_either_alphabet_of_base64_is_the_same_key() -> None:
    raw = b"\xfb\xff" * 16
    standard, url_safe = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    assert standard != url_safe
    assert Key.parse(standard) == Key.parse(f" {url_safe}\n")


def test_a_key_shows_its_fingerprint_alone(tmp_path: Path) -> None:
    key = Key(KEY)
    assert KEY not in f"{key!r} {key} {[key]}"
    assert re.fullmatch(r"[0-9a-f]{8}", key.fingerprint)
    assert key.fingerprint != new_key().fingerprint


# -- the application ---------------------------------------------------------------------------------------------------
def test_an_application_has_one_vault_and_two_have_two(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        app = Flask(name)
        app.extensions["switchhook.settings"] = settings_in(tmp_path / name)
        with app.app_context():
            assert current_vault() is current_vault()
            found.append(current_vault())
    assert found[0] is not found[1]
    with pytest.raises(SetupError):
        found[1].unseal(found[0].seal(SECRET))
