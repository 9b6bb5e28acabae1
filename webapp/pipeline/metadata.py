"""What a picture tells beside its pixels (place, camera, owner, texts), taken out before the picture goes anywhere.

Pixels are left as they are, byte for byte. Only a picture that is to be turned is made anew: once its note on that is gone,
nobody could know.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_QUALITY = 95
_ORIENTATION = 0x0112
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI bKGD hIST pHYs sPLT acTL fcTL fdAT".split()
)
_WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"))
_WEBP_TELLS = 0b1100
"""The flags in a WebP's head that announce EXIF and XMP."""
_GIF_KEPT = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
"""Extensions of applications that say how often an animation is repeated."""


class _Broken(Exception):
    """The file does not read as its format says."""


def stripped(data: bytes, media_type: str) -> bytes:
    """A picture of this type without its metadata, turned as these said. Colour profiles and animations stay.

    Raises what Pillow raises for a picture that has to be made anew and cannot be read.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=(media_type.removeprefix("image/").upper(),)) as image:
        if image.getexif().get(_ORIENTATION, 1) in range(2, 9) and (
            media_type == "image/jpeg" or getattr(image, "n_frames", 1) == 1
        ):
            return _made_anew(image, media_type, data)
        try:
            return _STRIP[media_type](data)
        except _Broken:
            return _made_anew(image, media_type, data)


def _made_anew(image: Image.Image, media_type: str, data: bytes) -> bytes:
    """The picture turned as it is to be seen, with its colour profile and nothing else."""
    from PIL import ImageOps
    from PIL.JpegImagePlugin import get_sampling

    how: dict[str, object] = {"icc_profile": image.info.get("icc_profile")}
    if media_type == "image/jpeg":
        # As dense as it was: the vendor's own tables cannot be better than those that the camera has used.
        tables, sampling = getattr(image, "quantization", None), get_sampling(image)
        how |= {"qtables": tables, "subsampling": sampling if sampling >= 0 else 0} if tables else {"quality": _QUALITY}
    elif media_type == "image/webp":
        how |= {"lossless": True} if b"VP8L" in data[:64] else {"quality": _QUALITY}
    turned = ImageOps.exif_transpose(image)
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "comment"):
        turned.info.pop(name, None)
    out = io.BytesIO()
    turned.save(out, media_type.removeprefix("image/").upper(), **how)
    return _STRIP[media_type](out.getvalue())


# -- the formats ---------------------------------------------------------------------------------------------------------
def _jpeg(data: bytes) -> bytes:
    """Of the segments of applications only JFIF, ICC profiles and Adobe's colour transform; what is behind the end is cut."""
    kept, at = [b"\xff\xd8"], 2
    while True:
        if data[at : at + 1] != b"\xff":
            raise _Broken
        while data[at + 1 : at + 2] == b"\xff":
            at += 1  # fill bytes
        marker = data[at + 1 : at + 2]
        if marker == b"\xd9":
            return b"".join([*kept, b"\xff\xd9"])
        end = at + 2 + _number(data, at + 2, ">H")
        if end < at + 4 or end > len(data):
            raise _Broken
        segment = b"\xff" + data[at + 1 : end]
        if marker == b"\xda":
            end = _scan_end(data, end)
            kept.append(data[at:end])
            if end == len(data):
                return b"".join(kept)  # cut off: it is shown as far as it goes
        elif not (b"\xe0" <= marker <= b"\xef" or marker == b"\xfe") or segment[4:].startswith(_JPEG_KEPT.get(marker, _NEVER)):
            kept.append(segment)
        at = end


_NEVER = (b"\x00never\x00",)
_JPEG_KEPT = {b"\xe0": (b"JFIF\x00",), b"\xe2": (b"ICC_PROFILE\x00",), b"\xee": (b"Adobe",)}


def _scan_end(data: bytes, at: int) -> int:
    """Where the coded pixels end: at a marker that is neither a stuffed byte, a restart nor a fill byte."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        after = data[at + 1]
        if after == 0xFF:
            at += 1
        elif after == 0 or 0xD0 <= after <= 0xD7:
            at += 2
        else:
            return at
    return len(data)


def _png(data: bytes) -> bytes:
    kept, at = [_PNG_HEAD], len(_PNG_HEAD)
    if not data.startswith(_PNG_HEAD):
        raise _Broken
    while at < len(data):
        end = at + 12 + _number(data, at, ">I")
        name = data[at + 4 : at + 8]
        if end > len(data):
            raise _Broken
        if name in _PNG_KEPT:
            kept.append(data[at:end])
        if name == b"IEND":
            return b"".join(kept)
        at = end
    raise _Broken


def _webp(data: bytes) -> bytes:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise _Broken
    kept, at = [], 12
    last = min(len(data), 8 + _number(data, 4, "<I"))
    while at + 8 <= last:
        name, size = data[at : at + 4], _number(data, at + 4, "<I")
        end = at + 8 + size
        if end > len(data):
            raise _Broken
        if name in _WEBP_KEPT:
            body = bytearray(data[at + 8 : end])
            if name == b"VP8X" and body:
                body[0] &= ~_WEBP_TELLS
            kept.append(data[at : at + 8] + bytes(body) + b"\x00" * (size % 2))
        at = end + size % 2
    chunks = b"".join(kept)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _gif(data: bytes) -> bytes:
    """Comments and what applications have added are left out, but for how often it is repeated."""
    at = 13 + _table(_number(data, 10, "B"))
    kept = [data[:at]]
    while at < len(data):
        kind, start = data[at], at
        if kind == 0x3B:
            return b"".join([*kept, b";"])
        if kind == 0x2C:
            at += 10 + _table(_number(data, at + 9, "B")) + 1
        elif kind == 0x21:
            at += 2
        else:
            raise _Broken
        at = _blocks_end(data, at)
        named = data[start + 3 : start + 14]
        if kind == 0x2C or data[start + 1] in (0xF9, 0x01) or (data[start + 1] == 0xFF and named in _GIF_KEPT):
            kept.append(data[start:at])
    return b"".join(kept)  # cut off: it is shown as far as it goes


def _table(flags: int) -> int:
    """The bytes of the table of colours that a GIF's flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _blocks_end(data: bytes, at: int) -> int:
    """Where a GIF's data blocks end: behind the empty one."""
    while size := _number(data, at, "B"):
        at += 1 + size
    return at + 1


def _number(data: bytes, at: int, form: str) -> int:
    try:
        number: int = struct.unpack_from(form, data, at)[0]
    except struct.error:
        raise _Broken from None
    return number


_STRIP: dict[str, Callable[[bytes], bytes]] = {
    "image/jpeg": _jpeg,
    "image/png": _png,
    "image/webp": _webp,
    "image/gif": _gif,
}
