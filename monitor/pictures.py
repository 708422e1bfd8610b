"""One picture file -> gray planes and its digest. It knows bytes and pixels; no embryo, no layout.

Pillow decodes because it refuses what is cut off (OpenCV fills the rest with gray and goes on) and tells the size
before it touches a pixel. A file holds one plane, or one for each page.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from monitor.errors import FrameError
from monitor.tiff import TiffError, count_pages
from monitor.vocabulary import Gray

MAX_PIXELS = 4096 * 4096  # an incubator's camera gives 500 x 500 to 2,000 x 2,000
MAX_FILE_BYTES = 64 * 2**20
MAX_PAGES = 100  # no incubator has so many planes; a crafted file may hold millions of empty ones
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags
# what Pillow raises on damaged bytes; its TIFF reader lets nearly anything through
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class Kind:
    """What a picture file is, as its header says: `bits` of a gray value, `pages` (over MAX_PAGES are not counted)."""

    form: str
    width_px: int
    height_px: int
    bits: int
    colours: str
    pages: int

    def __str__(self) -> str:
        pages = f", {self.pages} pages" if self.pages != 1 else ""
        return f"{self.width_px} x {self.height_px} px {self.form}, {self.bits} bits {self.colours}{pages}"


def read_plane(path: Path) -> tuple[Gray, str]:
    """(H, W) uint8 and the file's SHA-256.

    Raises FrameError: `vanished`, `unreadable`, `empty`, `too_large`, `truncated`, `not_a_picture`, `pages`, `pixels`.
    """
    data = read_bytes(path)
    return decode_plane(data, path.name), hashlib.sha256(data).hexdigest()


def read_pages(path: Path, count: int) -> tuple[list[Gray | FrameError], str]:
    """The `count` pages of a file, each (H, W) uint8 or why it does not decode, and the file's SHA-256.

    Raises FrameError as `read_plane`; `pages` when the file holds another number of them.
    """
    data = read_bytes(path)
    return decode_pages(data, path.name, count), hashlib.sha256(data).hexdigest()


def read_bytes(path: Path) -> bytes:
    """A picture file's bytes. Raises FrameError: `vanished`, `unreadable`, `empty`, `too_large`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as fault:
        raise FrameError("vanished", path.name) from fault
    except OSError as fault:
        raise FrameError("unreadable", f"{path.name}: {fault.strerror}") from fault
    if not data:
        raise FrameError("empty", f"{path.name} has 0 bytes")
    if len(data) > MAX_FILE_BYTES:
        raise FrameError("too_large", f"{path.name} has over {MAX_FILE_BYTES} bytes")
    return data


def decode_plane(data: bytes, name: str) -> Gray:
    """(H, W) uint8 from the bytes of a JPEG, PNG, BMP or TIFF. Raises FrameError as `read_plane`."""
    picture = _open(data, name)
    if picture.format == "JPEG" and b"\xff\xd9" not in data[-4096:]:
        raise FrameError("truncated", f"{name}: the JPEG has no end")
    pages = _count_pages(picture, data, name)
    gray = _decode(picture, name)  # a damaged picture is damaged first, whatever it says of its pages
    if pages != 1:
        raise FrameError(
            "pages", f"{name} holds {_told(pages)} pages, this layout has one a file (tiff-stack has many)"
        )
    return gray


def decode_pages(data: bytes, name: str, count: int) -> list[Gray | FrameError]:
    """As `read_pages`, from bytes."""
    picture = _open(data, name)
    pages = _count_pages(picture, data, name)
    if pages != count:
        raise FrameError(
            "pages",
            f"{name} holds {_told(pages)} pages, {count} planes are declared: "
            "`planes` must name the focal plane of each page",
        )
    return [_decode_page(data, name, page) for page in range(count)]


def kind_of(data: bytes, name: str) -> Kind:
    """What a picture is, without decoding it. Raises FrameError."""
    picture = _open(data, name)
    gray = picture.mode.startswith("I") or picture.mode in ("1", "L", "LA", "F")
    return Kind(
        form=str(picture.format),
        width_px=picture.width,
        height_px=picture.height,
        bits=_bits(picture),
        colours="gray" if gray else picture.mode,
        pages=_count_pages(picture, data, name),
    )


def bits_used(data: bytes, name: str) -> int:
    """How many of a gray picture's bits its brightest pixel needs. Raises FrameError."""
    picture = _open(data, name)
    _load(picture, name)
    return int(np.asarray(picture).max()).bit_length()


def _open(data: bytes, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below is tighter
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as fault:
        raise FrameError("pixels", f"{name}: {fault}") from fault
    except _DAMAGE as fault:
        raise FrameError("not_a_picture", f"{name}: {fault}") from fault
    _refuse_too_many_pixels(picture, name)
    return picture


def _refuse_too_many_pixels(picture: Image.Image, name: str) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise FrameError("pixels", f"{name} says {picture.width} x {picture.height} px, allowed are {MAX_PIXELS} px")


def _count_pages(picture: Image.Image, data: bytes, name: str) -> int:
    """Up to MAX_PAGES + 1. Raises FrameError `truncated` where a TIFF does not hold all that it names."""
    if picture.format != "TIFF":
        return int(getattr(picture, "n_frames", 1))  # their headers say it
    try:
        return count_pages(data, MAX_PAGES)
    except TiffError as fault:
        raise FrameError("truncated", f"{name}: {fault}") from fault


def _told(pages: int) -> str:
    return str(pages) if pages <= MAX_PAGES else f"over {MAX_PAGES}"


def _decode_page(data: bytes, name: str, page: int) -> Gray | FrameError:
    where = f"{name}, page {page + 1}"
    try:
        picture = _open(data, where)  # anew: no pixel of another page can be left in it
        picture.seek(page)
        _refuse_too_many_pixels(picture, where)
        return _decode(picture, where)
    except FrameError as fault:
        return fault
    except Image.DecompressionBombError as fault:
        return FrameError("pixels", f"{where}: {fault}")
    except _DAMAGE as fault:
        return FrameError("truncated", f"{where}: {fault}")


def _decode(picture: Image.Image, name: str) -> Gray:
    _load(picture, name)
    try:
        return _gray(picture)
    except ValueError as fault:  # colours that have no gray (LAB)
        raise FrameError("not_a_picture", f"{name}: {fault}") from fault


def _load(picture: Image.Image, name: str) -> None:
    try:
        picture.load()
    except _DAMAGE as fault:
        raise FrameError("truncated", f"{name}: {fault}") from fault


def _bits(picture: Image.Image) -> int:
    """Of a gray value, as the header says: a TIFF may pack 12."""
    if not picture.mode.startswith("I"):
        return {"1": 1, "F": 32}.get(picture.mode, 8)
    stated = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return int(stated[0])


def _gray(picture: Image.Image) -> Gray:
    """Colours by their luma, transparency left out; of deeper gray the upper eight bits, also where a camera fills 12
    of 16: a scale taken from each picture's own brightest pixel would flicker from frame to frame.
    """
    if picture.mode == "F" or (picture.mode == "I" and picture.format == "TIFF"):
        raise ValueError("32 bits a pixel have no scale that is known; 8 and 16 are read")
    if picture.mode.startswith("I"):  # 16 bits, whichever byte order
        gray = (np.asarray(picture) >> (_bits(picture) - 8)).clip(0, 255).astype(np.uint8)
        dark_is_high = getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return 255 - gray if dark_is_high else gray  # Pillow turns 8 bits round, but not 16
    return np.array(picture.convert("L"), dtype=np.uint8)
