"""The vault: secrets that are kept in the database (vendors' keys, webhooks' secrets) are sealed there with Fernet.

The keys come from SWITCHHOOK_ENCRYPTION_KEYS or, without that, from a file in the data directory that is made when the first
secret is sealed. There may be several, newest first: the newest seals, all of them open. So a key is replaced in three steps,
of which each may be interrupted and run again: a new one is put in front, every stored secret is sealed anew, the old key is
taken out (`webapp.cli.keys`). Processes that are running look at the file before they seal, and again when no key opens a
secret, so none of them has to be started anew.

Known sharp edges: a database without its keys is worth nothing, so a backup needs both, kept apart. The file serves one
machine; several machines share their keys through the setting. Fernet's tokens show when a secret was sealed, and how long it
is to the nearest 16 bytes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from flask import current_app

from webapp.contracts.errors import SetupError
from webapp.extensions import current_settings
from webapp.settings import Settings

SETTING = "SWITCHHOOK_ENCRYPTION_KEYS"
FILE_NAME = "encryption_keys"
SETTLE_S = 30.0
"""Seconds after a new key came into the file for which the older ones stay: a process may have sealed with one of them just
before, in a transaction that is not committed yet."""

_EXTENSION = "switchhook.vault"
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_HOW = "make one with `switchhook keys make`"


@dataclass(frozen=True, slots=True)
class Key:
    """One Fernet key. Never shown: `fingerprint` names it."""

    text: str

    def __repr__(self) -> str:
        return f"Key({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits by which people tell keys apart; they say nothing about the key."""
        return hashlib.sha256(b"switchhook key:" + base64.urlsafe_b64decode(self.text)).hexdigest()[:8]

    def opens(self, token: str) -> bool:
        """Whether the token was sealed with this key."""
        with contextlib.suppress(InvalidToken, ValueError, TypeError):
            Fernet(self.text).decrypt(token)
            return True
        return False

    @classmethod
    def parse(cls, text: str) -> Key:
        """A key from its text, in base64 of either alphabet. ValueError, without the text, if it is none."""
        text = text.strip().translate(str.maketrans("+/", "-_"))
        if not _KEY.fullmatch(text):
            raise ValueError("not 32 bytes in base64")
        # The last digit has two bits to spare: one spelling for each key, or one would count as two.
        return cls(base64.urlsafe_b64encode(base64.urlsafe_b64decode(text)).decode("ascii"))


def new_key() -> Key:
    """A fresh random key."""
    return Key(Fernet.generate_key().decode("ascii"))


class KeyFile:
    """The file that holds the keys, one per line, newest first; for its owner alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.path: Path = settings.data_dir / FILE_NAME

    def stamp(self) -> tuple[int, int, int] | None:
        """What changes whenever the file does; None if there is no file."""
        with self._usable():
            try:
                found = self.path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return found.st_ino, found.st_mtime_ns, found.st_size

    def age_s(self) -> float:
        """Seconds since the file was written."""
        with self._usable():
            return max(0.0, time.time() - self.path.stat().st_mtime)

    def read(self) -> tuple[Key, ...]:
        """The keys; () if there is no file. `SetupError` for a line that is no key, by its number."""
        with self._usable():
            try:
                lines = self.path.read_bytes().decode("utf-8", "replace").splitlines()
            except (FileNotFoundError, NotADirectoryError):
                return ()
        found: list[Key] = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found.append(Key.parse(line))
            except ValueError as exc:
                raise SetupError(
                    f"Line {number} of {self.path} is no encryption key: restore the file from a backup, or remove the line."
                ) from exc
        if not found:
            raise SetupError(f"{self.path} holds no encryption key: restore it from a backup, or remove it.")
        return tuple(dict.fromkeys(found))

    def make(self) -> tuple[Key, ...]:
        """Make the file with a first key. Of processes that do so at the same time one wins, and all get its key."""
        self._settings.make_data_dir()
        with self._usable():
            if not self.path.exists():
                temporary = self._write([new_key()])
                try:
                    os.link(temporary, self.path)
                except FileExistsError:
                    pass
                finally:
                    temporary.unlink()
                self._sync_folder()
        return self.read()

    def replace(self, keys: Iterable[Key]) -> None:
        """Put other keys in the place of those that are there, whole or not at all. Only inside `locked`."""
        with self._usable():
            self._write(keys).replace(self.path)
            self._sync_folder()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from changing the file meanwhile: one would undo what the other did, and lose a key."""
        self._settings.make_data_dir()
        with self._usable():
            lock = os.open(self.path.with_name(f"{FILE_NAME}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self._usable():
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, keys: Iterable[Key]) -> Path:
        # On the disk before anything is sealed with it: secrets outlive a loss of power, so their keys have to.
        temporary = self.path.with_name(f"{FILE_NAME}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.writelines(f"{key.text}\n" for key in keys)
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            temporary.unlink()
            raise
        return temporary

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # not every file system can
                os.fsync(folder)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise SetupError(
                f"The encryption keys in {self.path} cannot be used ({exc.strerror}): make the file readable and its folder "
                f"writable for this user, or set {SETTING}."
            ) from exc


class Vault:
    """Seals and opens secrets with the keys of one installation. Safe to share between threads.

    `SetupError`, which never shows a key, for keys that are none.
    """

    def __init__(self, settings: Settings) -> None:
        given = settings.encryption_keys.get_secret_value()
        self.file: KeyFile | None = None if given.strip() else KeyFile(settings)
        """Where the keys are kept; None if the environment gives them."""
        self._other_file = KeyFile(settings).path
        self._lock = threading.Lock()
        self._keys = _from_setting(given)
        self._stamp: tuple[int, int, int] | None = None
        self._look()

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, newest first; () before the first secret was sealed."""
        self._look()
        return self._keys

    @property
    def source(self) -> str:
        """Where the keys come from, for people: the setting's name, or the file's path."""
        return SETTING if self.file is None else str(self.file.path)

    def seal(self, text: str) -> str:
        """Seal a secret with the newest key; the first one is made here. Returns a token of URL-safe characters."""
        keys = self.keys or self._make()
        return Fernet(keys[0].text).encrypt(text.encode("utf-8", "surrogatepass")).decode("ascii")

    def unseal(self, token: str) -> str:
        """The secret in a token. `SetupError`, with what to do, if none of the keys opens it."""
        tried: tuple[Key, ...] | None = None
        while (keys := self._keys) != tried:
            with contextlib.suppress(InvalidToken, ValueError, TypeError):  # whatever the database holds, and no keys at all
                return MultiFernet([Fernet(key.text) for key in keys]).decrypt(token).decode("utf-8", "surrogatepass")
            tried = keys
            # Another process may have put a new key in front since the file was read, and used it.
            self._look()
        raise self._refusal()

    def rotate(self, token: str) -> str:
        """The same secret sealed with the newest key; the token itself if that is how it is sealed already.

        `SetupError` if none of the keys opens it.
        """
        text = self.unseal(token)
        return token if self.keys[0].opens(token) else self.seal(text)

    def sealed_by(self, token: str) -> Key | None:
        """The key that opens a token; None if none does."""
        return next((key for key in self.keys if key.opens(token)), None)

    @staticmethod
    def hint(text: str) -> str:
        """The end of a secret, by which people know it again: four characters, but never more than a quarter of it."""
        return text[len(text) - min(4, len(text) // 4) :]

    def _look(self) -> bool:
        """Read the file again if it changed. Returns whether it did."""
        if self.file is None:
            return False
        with self._lock:
            stamp = self.file.stamp()
            if stamp == self._stamp:
                return False
            if stamp is None:
                raise SetupError(
                    f"The encryption keys in {self.file.path} are gone: restore the file from a backup. Without it, start "
                    "Switchhook anew and enter the vendors' keys again."
                )
            self._keys, self._stamp = self.file.read(), stamp
            return True

    def _make(self) -> tuple[Key, ...]:
        assert self.file is not None
        self.file.make()
        self._look()
        return self._keys

    def _refusal(self) -> SetupError:
        if self.file is None:
            perhaps = f" (it may be in {self._other_file})" if self._other_file.exists() else ""
            cure = f"add the key that sealed it{perhaps} to the end of {SETTING}"
        else:
            cure = (
                f"restore {self.file.path} from the backup that belongs to this database; where several machines share the "
                f"database, give all of them the same {SETTING}"
            )
        return SetupError(
            f"A stored secret cannot be opened with the encryption keys that are here: {cure}, or enter it again."
        )


def current_vault() -> Vault:
    """The vault of the running application, made at the first call."""
    found = current_app.extensions.get(_EXTENSION)
    if found is None:
        found = current_app.extensions.setdefault(_EXTENSION, Vault(current_settings()))
    assert isinstance(found, Vault)
    return found


def _from_setting(given: str) -> tuple[Key, ...]:
    found: list[Key] = []
    for number, part in enumerate(filter(None, (part.strip() for part in given.split(","))), 1):
        try:
            found.append(Key.parse(part))
        except ValueError as exc:
            raise SetupError(
                f"Wrong setting: {SETTING}: key {number} is not a Fernet key (32 bytes in base64): {_HOW}."
            ) from exc
    if given.strip() and not found:
        raise SetupError(f"Wrong setting: {SETTING} holds no key: {_HOW}.")
    return tuple(dict.fromkeys(found))
