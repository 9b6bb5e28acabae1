"""Pictures, kept in the data directory under the SHA-256 of their bytes: checked, once each, never by an address."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from webapp.contracts.calls import Picture
from webapp.contracts.errors import BadInput
from webapp.extensions import current_settings
from webapp.pipeline import metadata

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 64_000_000
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
_SEVERAL_JPEGS = "MPO"
"""What Pillow calls a JPEG with another one behind it, as many telephones make them."""
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}
_ARRIVING = "arriving"
_ARRIVES_WITHIN_S = 3600
_LOCK = "pictures.lock"
_HASH = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture that lies in the data directory."""

    sha256: str
    media_type: str
    size_bytes: int
    width: int
    height: int


def look(data: bytes) -> tuple[str, int, int]:
    """(media type, width, height) of a picture, by its own head. Raises `BadInput` if it is none, or too large to open."""
    from PIL import Image

    if len(data) > MAX_BYTES:
        raise BadInput("picture", f"The picture is too large: at most {MAX_BYTES // 1_048_576} MB are taken.")
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_TYPES)) as image:
            kind, (width, height) = image.format or "", image.size
            kind = "JPEG" if kind == _SEVERAL_JPEGS else kind
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.verify()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        # Pillow's own limits are wider than ours, but it may speak first.
        raise BadInput(
            "picture", f"The picture has too many pixels: at most {MAX_PIXELS // 1_000_000} million are taken."
        ) from exc
    except Exception as exc:
        # Pillow's readers raise whatever a broken file makes them raise: struct.error, IndexError, OverflowError…
        raise BadInput("picture", "This is not a picture: PNG, JPEG, GIF and WebP are taken.") from exc
    return _TYPES[kind], width, height


def received(data: bytes) -> bytes:
    """A picture that somebody sent, without what it tells beside its pixels: the place, the camera, texts. `BadInput`."""
    media_type, _, _ = look(data)
    try:
        return metadata.stripped(data, media_type)
    except Exception as exc:
        # It has to be made anew, and Pillow's readers raise whatever a broken file makes them raise.
        raise BadInput("picture", "This picture is damaged: save it anew and try again.") from exc


def store(data: bytes, *, strip: bool = False) -> Stored:
    """Keep a picture; one that is there already is kept once. Raises `BadInput` if it is no picture.

    With `strip` it is kept without its metadata: for what people send. What vendors made is kept byte for byte.
    """
    if strip:
        data = received(data)
    media_type, width, height = look(data)
    digest = hashlib.sha256(data).hexdigest()
    path = path_of(digest)
    with _locked(fcntl.LOCK_SH):
        try:
            os.utime(path)  # or it could be removed before the database knows of its new owner
        except FileNotFoundError:
            _write(path, data)
    return Stored(digest, media_type, len(data), width, height)


def remove(sha256: str) -> bool:
    """Remove a picture that nobody has any more; whether it is gone. One that was stored within the last hour stays: the
    database may not know of its owner yet."""
    path = path_of(sha256)
    with _locked(fcntl.LOCK_EX):
        try:
            if path.stat().st_mtime > time.time() - _ARRIVES_WITHIN_S:
                return False
            path.unlink()
        except FileNotFoundError:
            return True
    return True


@contextmanager
def _locked(kind: int) -> Iterator[None]:
    """Keep storing and removing apart, in all processes: many may store at once, whoever removes is alone."""
    current_settings().data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(current_settings().data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, kind)
        yield
    finally:
        os.close(handle)


def _write(path: Path, data: bytes) -> None:
    """Write it whole under another name, then move it: nobody ever reads half a picture."""
    arriving = _folder() / _ARRIVING
    for folder in (_folder(), arriving, path.parent):  # one by one: parents that are made along get another mode
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _clear(arriving)
    temporary = arriving / f"{path.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _clear(arriving: Path) -> None:
    """Take away what a killed process left half written. Nothing takes an hour to be written."""
    before = time.time() - _ARRIVES_WITHIN_S
    for left in arriving.iterdir():
        try:
            if left.stat().st_mtime < before:
                left.unlink()
        except FileNotFoundError:
            continue  # it has arrived meanwhile


def _sync(folder: Path) -> None:
    """Make the new name outlast a power cut: the database will say that the picture is there."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(sha256: str) -> Picture:
    """A stored picture. Raises `FileNotFoundError` if it is not there, `OSError` if it is no picture any more."""
    data = path_of(sha256).read_bytes()
    try:
        return Picture(look(data)[0], data)
    except BadInput as exc:
        raise OSError("the stored picture is spoiled") from exc


def file_name(sha256: str, media_type: str) -> str:
    """A name for a picture outside of here, such as `picture-0f3a5c77.png`."""
    return f"picture-{sha256[:8]}.{EXTENSIONS.get(media_type, 'bin')}"


def path_of(sha256: str) -> Path:
    """Where a picture lies. `ValueError` for what is no SHA-256: it may have come from outside."""
    if not _HASH.match(sha256):
        raise ValueError("not a SHA-256 in lower-case hexadecimal digits")
    return _folder() / sha256[:2] / sha256


def _folder() -> Path:
    return current_settings().data_dir / "pictures"
