"""The pages of a TIFF by its own directories: how many there are, and whether every byte they name is in the file.

Pillow and libtiff go on after a directory that is cut off, and then give black, or the page before once more: so it is
looked at before they are asked. It knows bytes, and decodes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_NUMBERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types that a place can have
_PLACES = ((273, 279), (324, 325))  # offsets and byte counts: of strips, of tiles


class TiffError(ValueError):
    """A directory, or something that it names, is not wholly in the file."""


@dataclass(frozen=True)
class _Form:
    """How the file writes numbers: byte order; classic TIFF or BigTIFF."""

    order: str
    big: bool

    @property
    def entry_bytes(self) -> int:
        return 20 if self.big else 12

    def number(self, data: bytes, at: int, kind: str) -> int:
        try:
            return int(struct.unpack_from(self.order + kind, data, at)[0])
        except (struct.error, OverflowError) as fault:
            raise TiffError(f"the file ends at byte {len(data)}, byte {at} is named") from fault


def count_pages(data: bytes, at_most: int) -> int:
    """How many pages a TIFF has; over `at_most` are not counted. Raises TiffError where a page is not wholly there."""
    count = 0
    for form, at in islice(_directories(data), at_most + 1):
        _check_page(data, form, at)
        count += 1
    return count


def _directories(data: bytes) -> Iterator[tuple[_Form, int]]:
    form = _Form("<" if data[:2] == b"II" else ">", big=data[2:4] in (b"+\0", b"\0+"))
    at = form.number(data, 8 if form.big else 4, "Q" if form.big else "I")
    seen: set[int] = set()
    while at and at not in seen:  # a ring of directories has an end, too
        seen.add(at)
        yield form, at
        after = _entries_at(form, at) + _entry_count(data, form, at) * form.entry_bytes
        at = form.number(data, after, "Q" if form.big else "I")


def _entry_count(data: bytes, form: _Form, at: int) -> int:
    return form.number(data, at, "Q" if form.big else "H")


def _entries_at(form: _Form, at: int) -> int:
    return at + (8 if form.big else 2)


def _check_page(data: bytes, form: _Form, at: int) -> None:
    first, count = _entries_at(form, at), _entry_count(data, form, at)
    if first + count * form.entry_bytes > len(data):
        raise TiffError(f"the file ends at byte {len(data)}, in the middle of a directory")
    found: dict[int, tuple[int, ...]] = {}
    wanted = {tag for pair in _PLACES for tag in pair}
    for entry in range(first, first + count * form.entry_bytes, form.entry_bytes):
        tag, kind = form.number(data, entry, "H"), form.number(data, entry + 2, "H")
        if tag in wanted and kind in _NUMBERS:  # of other tags a damaged one costs no pixel
            values = _values(data, form, entry, kind)
            found[tag] = struct.unpack(
                f"{form.order}{len(values) // struct.calcsize('=' + _NUMBERS[kind])}{_NUMBERS[kind]}", values
            )
    for offsets, lengths in _PLACES:
        for offset, length in zip(found.get(offsets, ()), found.get(lengths, ()), strict=False):
            if offset + length > len(data):
                raise TiffError(f"the file ends at byte {len(data)}, pixels are to stand up to byte {offset + length}")


def _values(data: bytes, form: _Form, entry: int, kind: int) -> bytes:
    """What an entry holds, in itself or where it points to. Raises TiffError when that is beyond the end."""
    size = struct.calcsize("=" + _NUMBERS[kind]) * form.number(data, entry + 4, "Q" if form.big else "I")
    inside, at = (8, entry + 12) if form.big else (4, entry + 8)
    if size > inside:
        at = form.number(data, at, "Q" if form.big else "I")
    if at + size > len(data):
        raise TiffError(f"the file ends at byte {len(data)}, byte {at + size} is named")
    return data[at : at + size]
