"""Pictures in the data directory: checked, once each, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, current_app
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.conftest import make_settings
from tests.fakes.vendor import tiny_png
from webapp.contracts.errors import BadInput
from webapp.pipeline import pictures


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    app = Flask("pictures")
    app.extensions["switchhook.settings"] = make_settings(tmp_path, "unix:///nowhere")
    with app.app_context():
        yield tmp_path / "pictures"


def encoded(kind: str, size: tuple[int, int] = (9, 7)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "teal").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("GIF", "image/gif"), ("WEBP", "image/webp")],
)
def test_a_picture_is_known_by_its_own_head_and_read_as_it_came(kind: str, media_type: str, folder: Path) -> None:
    data = encoded(kind)
    stored = pictures.store(data)
    digest = hashlib.sha256(data).hexdigest()
    assert stored == pictures.Stored(digest, media_type, len(data), 9, 7)
    assert (folder / digest[:2] / digest).read_bytes() == data
    assert pictures.read(digest).data == data
    assert pictures.read(digest).media_type == media_type
    assert pictures.file_name(digest, media_type) == f"picture-{digest[:8]}.{pictures.EXTENSIONS[media_type]}"


def test_the_same_picture_is_kept_once_and_not_written_again(folder: Path) -> None:
    first = pictures.store(tiny_png())
    path = pictures.path_of(first.sha256)
    before = path.stat().st_ino
    assert pictures.store(tiny_png()) == first
    assert path.stat().st_ino == before
    assert [each for each in folder.rglob("*") if each.is_file()] == [path]
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        b"%PDF-1.7",
        tiny_png()[:20],
        tiny_png()[:-20],
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 64,
        b"GIF89a" + b"\xff" * 6,
        b"RIFF\xff\xff\xff\xffWEBPVP8X",
        encoded("BMP"),
        encoded("TIFF"),
        encoded("PDF"),
    ],
)
def test_what_is_no_picture_is_refused_and_leaves_nothing(data: bytes, folder: Path) -> None:
    with pytest.raises(BadInput, match="not a picture"):
        pictures.store(data)
    assert not folder.exists()


def test_a_small_file_that_unpacks_to_a_giant_is_refused_by_its_head() -> None:
    for side in (8_001, 12_000, 60_000):
        head = tiny_png()
        giant = bytearray(head)
        giant[16:24] = side.to_bytes(4, "big") * 2
        giant[29:33] = zlib.crc32(bytes(giant[12:29])).to_bytes(4, "big")
        with pytest.raises(BadInput, match="too many pixels"):
            pictures.look(bytes(giant))


def test_a_file_that_is_too_large_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(BadInput, match="too large: at most 20 MB"):
        pictures.look(b"x" * (pictures.MAX_BYTES + 1))


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 65, "/" * 64])
def test_only_a_hash_names_a_picture(name: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        pictures.path_of(name)


def test_what_is_not_there_or_spoiled_cannot_be_read() -> None:
    with pytest.raises(FileNotFoundError):
        pictures.read("0" * 64)
    stored = pictures.store(tiny_png())
    pictures.path_of(stored.sha256).write_bytes(b"spoiled")
    with pytest.raises(OSError, match="spoiled"):
        pictures.read(stored.sha256)


def test_what_a_killed_process_left_half_written_is_cleared_away_after_an_hour(folder: Path) -> None:
    pictures.store(tiny_png())
    old, young = folder / "arriving" / "old", folder / "arriving" / "young"
    for path in (old, young):
        path.write_bytes(b"half a pict")
    os.utime(old, (time.time() - 4000,) * 2)
    pictures.store(tiny_png(9, 9))
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_leaves_no_half_picture(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            pictures.store(encoded("JPEG"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [each for each in folder.rglob("*") if each.is_file()] == []


# -- what people send: without what it tells beside its pixels -------------------------------------------------------------
PLACE = "52.5200N-13.4050E"


def told(kind: str, orientation: int = 1, size: tuple[int, int] = (24, 16)) -> bytes:
    """A picture whose upper left corner is red, with a camera, a place and texts in it."""
    image = Image.new("RGB", size, "teal")
    image.paste("red", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = f"Camera {PLACE}", orientation
    exif.get_ifd(0x8825)[1] = "N"
    out = io.BytesIO()
    if kind == "PNG":
        texts = PngInfo()
        texts.add_text("Comment", PLACE)
        texts.add_itxt("XML:com.adobe.xmp", f"<x>{PLACE}</x>")
        image.save(out, kind, exif=exif, pnginfo=texts)
    elif kind == "GIF":
        frames = [Image.new("P", size, colour) for colour in (1, 2)]
        frames[0].save(out, kind, save_all=True, append_images=frames[1:], loop=3, comment=PLACE)
    elif kind == "JPEG":
        image.save(out, kind, quality=90, exif=exif, comment=PLACE, xmp=f"<x>{PLACE}</x>".encode(), icc_profile=b"profile")
    else:
        image.save(out, kind, quality=90, exif=exif, xmp=f"<x>{PLACE}</x>".encode())
    return out.getvalue()


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_what_somebody_sent_is_kept_without_what_it_tells_and_with_the_same_pixels(kind: str) -> None:
    data = told(kind) + PLACE.encode() * (kind != "PNG")  # what hangs behind the end goes too
    assert PLACE.encode() in data
    stored = pictures.store(data, strip=True)
    kept = pictures.read(stored.sha256).data
    assert PLACE.encode() not in kept
    assert pixels(kept) == pixels(data)
    assert (stored.width, stored.height, stored.size_bytes) == (24, 16, len(kept))
    with Image.open(io.BytesIO(kept)) as image:
        image.load()
        assert not image.getexif()
        assert {"exif", "xmp", "comment", "Comment"}.isdisjoint(image.info)
        if kind == "JPEG":
            assert image.info["icc_profile"] == b"profile"
    assert pictures.received(kept) == kept


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_to_be_turned_is_turned_before_its_note_on_that_goes(kind: str) -> None:
    kept = pictures.received(told(kind, orientation=6))
    assert PLACE.encode() not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert image.size == (16, 24)
        red, green, _ = image.convert("RGB").getpixel((13, 3))  # type: ignore[misc]
        assert red > 200 > 60 > green, "the corner is at the upper right now"
        assert 0x0112 not in image.getexif()


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_that_somebody_sent_stays_one(kind: str) -> None:
    out = io.BytesIO()
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "teal", "navy")]
    told_more = {"comment": PLACE} if kind == "GIF" else {"xmp": f"<x>{PLACE}</x>".encode()}
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=120, loop=2, **told_more)
    kept = pictures.received(out.getvalue())
    assert PLACE.encode() not in kept
    with Image.open(io.BytesIO(kept)) as image:
        assert (getattr(image, "n_frames", 1), image.info["loop"]) == (3, 2)
        image.seek(2)
        image.load()
        assert image.info["duration"] == 120


def test_a_telephones_jpeg_with_a_second_picture_behind_it_is_taken_as_its_first() -> None:
    out = io.BytesIO()
    first, second = (Image.new("RGB", (9, 7), colour) for colour in ("red", "teal"))
    first.save(out, "MPO", save_all=True, append_images=[second])
    assert pictures.look(out.getvalue()) == ("image/jpeg", 9, 7)
    kept = pictures.received(out.getvalue())
    with Image.open(io.BytesIO(kept)) as image:
        assert image.format == "JPEG"
    assert pixels(kept) == pixels(out.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_damaged_picture_is_refused_or_kept_but_never_with_what_it_tells(kind: str) -> None:
    data, refused = told(kind), 0
    for cut in range(12, len(data), 7):
        try:
            assert PLACE.encode() not in pictures.received(data[:cut])
        except BadInput:
            refused += 1
        spoiled = data[:cut] + b"\xff\xd9\x00\xff" + data[cut + 4 :]
        try:
            pictures.received(spoiled)
        except BadInput:
            refused += 1
    assert refused


def test_what_a_vendor_made_is_kept_byte_for_byte() -> None:
    data = told("PNG")
    assert pictures.read(pictures.store(data).sha256).data == data


def aged(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_picture_that_nobody_has_is_removed_and_one_that_was_just_stored_again_is_not(folder: Path) -> None:
    path = pictures.path_of(pictures.store(tiny_png()).sha256)
    assert not pictures.remove(path.name)
    aged(path, 7200)
    pictures.store(tiny_png())
    assert not pictures.remove(path.name)
    assert path.exists()
    aged(path, 7200)
    assert pictures.remove(path.name)
    assert not path.exists()
    assert pictures.remove(path.name)


def test_a_picture_stored_while_it_is_being_removed_is_there_afterwards(folder: Path) -> None:
    path = pictures.path_of(pictures.store(tiny_png()).sha256)
    data, context, together = tiny_png(), current_app.app_context, threading.Barrier(2)

    def keep_removing() -> None:
        with context():
            for _ in range(300):
                together.wait(20)
                pictures.remove(path.name)
                together.wait(20)

    remover = threading.Thread(target=keep_removing)
    remover.start()
    lost = 0
    for _ in range(300):
        if path.exists():
            aged(path, 7200)
        together.wait(20)
        pictures.store(data)
        together.wait(20)
        lost += not path.exists()
    remover.join()
    assert lost == 0
