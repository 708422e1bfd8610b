"""Named arrays and a small header as bytes and back: equal content gives equal bytes, so it can be named by its digest.

Layout: magic, length of the header (8 bytes, little endian), header (JSON: what was given, and each array's name,
dtype and shape), then the arrays' bytes, C order, little endian, in order of name. It knows no state and no embryo.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

from engines.contract import Array, Arrays, EngineError

_MAGIC = b"PLCD1\n"
_CODES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
_DTYPES = {code: np.dtype(code) for code in _CODES}


def pack(header: dict[str, Any], arrays: Arrays) -> bytes:
    """Bytes of a JSON-able header and arrays of numbers (any shape, including none). Raises EngineError for others."""
    parts: list[bytes] = []
    layout: list[tuple[str, str, list[int]]] = []
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.newbyteorder("<").str not in _DTYPES:
            raise EngineError(f"packed state: {name!r} is {array.dtype}, not numbers")
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        layout.append((name, little.dtype.str, list(array.shape)))
        parts.append(little.tobytes())
    head = json.dumps({"header": header, "arrays": layout}, sort_keys=True, separators=(",", ":")).encode()
    return b"".join([_MAGIC, struct.pack("<Q", len(head)), head, *parts])


def unpack(blob: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The header and the arrays (read-only views). Raises EngineError when the bytes are torn or not ours.

    Bytes that were changed and still hang together are not noticed here: whoever keeps them knows their digest.
    """
    start = len(_MAGIC) + 8
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < start:
        raise EngineError("not a packed state: the first bytes are wrong")
    (size,) = struct.unpack("<Q", blob[len(_MAGIC) : start])
    try:
        header, layout = _read_head(blob[start : start + size])
        return header, _read_arrays(blob, start + size, layout)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as fault:
        raise EngineError(f"packed state: it does not read ({fault})") from fault


def _read_head(text: bytes) -> tuple[dict[str, Any], list[tuple[str, np.dtype[Any], tuple[int, ...]]]]:
    head = json.loads(text)
    layout = [(str(name), _DTYPES[dtype], tuple(map(int, shape))) for name, dtype, shape in head["arrays"]]
    if not isinstance(head["header"], dict):
        raise TypeError("the header is no mapping")
    if any(side < 0 for _, _, shape in layout for side in shape):
        raise ValueError("a shape is negative")
    return head["header"], layout


def _read_arrays(blob: bytes, at: int, layout: list[tuple[str, np.dtype[Any], tuple[int, ...]]]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for name, dtype, shape in layout:
        count = math.prod(shape)
        if len(blob) < at + count * dtype.itemsize:
            raise ValueError(f"cut off in {name!r}")
        arrays[name] = np.frombuffer(blob, dtype=dtype, count=count, offset=at).reshape(shape)
        at += count * dtype.itemsize
    if at != len(blob):
        raise ValueError(f"it ends {abs(len(blob) - at)} bytes {'late' if at < len(blob) else 'early'}")
    return arrays
