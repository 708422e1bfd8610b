"""One picture file -> one gray plane and its digest. It knows bytes and pixels; no embryo, no layout.

Pillow decodes because it refuses what is cut off (OpenCV fills the rest with gray and goes on) and tells the size
before it touches a pixel.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from monitor.errors import FrameError
from monitor.vocabulary import Gray

MAX_PIXELS = 4096 * 4096  # an incubator's camera gives 500 x 500 to 2,000 x 2,000
MAX_FILE_BYTES = 64 * 2**20
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
# what Pillow raises on damaged bytes; its TIFF reader lets nearly anything through
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, struct.error, zlib.error),
)


def read_plane(path: Path) -> tuple[Gray, str]:
    """(H, W) uint8 and the file's SHA-256.

    Raises FrameError: `vanished`, `unreadable`, `empty`, `too_large`, `truncated`, `not_a_picture`, `pages`, `pixels`.
    """
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
    return decode_plane(data, path.name), hashlib.sha256(data).hexdigest()


def decode_plane(data: bytes, name: str) -> Gray:
    """(H, W) uint8 from the bytes of a JPEG, PNG, BMP or TIFF. Raises FrameError as `read_plane`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below is tighter
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as fault:
        raise FrameError("pixels", f"{name}: {fault}") from fault
    except _DAMAGE as fault:
        raise FrameError("not_a_picture", f"{name}: {fault}") from fault
    if picture.width * picture.height > MAX_PIXELS:
        raise FrameError("pixels", f"{name} says {picture.width} x {picture.height} px, allowed are {MAX_PIXELS} px")
    if picture.format == "JPEG" and b"\xff\xd9" not in data[-4096:]:
        raise FrameError("truncated", f"{name}: the JPEG has no end")
    try:
        pages = getattr(picture, "n_frames", 1)
        picture.load()
    except _DAMAGE as fault:
        raise FrameError("truncated", f"{name}: {fault}") from fault
    if pages != 1:
        raise FrameError("pages", f"{name} holds {pages} pages, this layout has one a file")
    try:
        return _gray(picture)
    except ValueError as fault:  # colours that have no gray (LAB)
        raise FrameError("not_a_picture", f"{name}: {fault}") from fault


def _gray(picture: Image.Image) -> Gray:
    if picture.mode.startswith("I"):  # 16-bit gray, whichever byte order: the upper eight bits
        return (np.asarray(picture, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
    return np.array(picture.convert("L"), dtype=np.uint8)
