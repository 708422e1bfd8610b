"""Bytes to gray planes: kinds and depths, and everything that is cut off, empty, too large or no picture."""

import hashlib
import io
import struct
import tracemalloc
import zlib
from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import monitor.pictures as pictures
from monitor.errors import FrameError
from monitor.pictures import bits_used, decode_pages, decode_plane, kind_of, read_pages, read_plane

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on damaged tags

SHAPE = (40, 56)
GRAY = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
SMOOTH = (np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) * 2).astype(np.uint8)
WAYS = {
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff-jpeg": ("TIFF", {"compression": "jpeg", "quality": 95}),
    "tiff-big": ("TIFF", {"compression": "tiff_lzw", "strip_size": 300, "big_tiff": True}),
}


def saved(picture: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@cache
def whole(way: str) -> bytes:
    form, options = WAYS[way]
    return saved(Image.fromarray(GRAY), form, **options)


def reason(data: bytes) -> str:
    with pytest.raises(FrameError) as fault:
        decode_plane(data, "x")
    return fault.value.reason


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_gray_is_read_exactly_also_where_it_is_stored_as_three_colours(form, mode):
    data = saved(Image.fromarray(GRAY).convert(mode), form)
    assert (decode_plane(data, "x") == GRAY).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_read_as_gray_whatever_its_colours(mode):
    data = saved(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=95)
    gray = decode_plane(data, "x")
    assert gray.shape == SHAPE
    assert gray.dtype == np.uint8
    assert np.abs(gray.astype(int) - SMOOTH).max() < 12


def test_transparency_is_not_light():
    rgba = np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])
    assert (decode_plane(saved(Image.fromarray(rgba), "PNG"), "x") == GRAY).all()


def test_a_palette_is_looked_up():
    picture = Image.fromarray(255 - GRAY, "P")
    picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    assert (decode_plane(saved(picture, "PNG"), "x") == GRAY).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_read_by_their_upper_eight(form):
    deep = GRAY.astype(np.uint16) * 256 + 77
    assert (decode_plane(saved(Image.fromarray(deep), form), "x") == GRAY).all()


def test_sixteen_bits_are_read_in_either_byte_order():
    deep = GRAY.astype(np.uint16) * 256 + 77
    for mode, order in (("I;16", "<u2"), ("I;16B", ">u2")):
        picture = Image.frombytes(mode, (SHAPE[1], SHAPE[0]), deep.astype(order).tobytes())
        assert (decode_plane(saved(picture, "TIFF"), "x") == GRAY).all()


@pytest.mark.parametrize("form", [".png", ".tiff"])
def test_gray_stored_as_three_colours_of_sixteen_bits_is_read_exactly(form):
    deep = GRAY.astype(np.uint16) * 256 + 77
    assert (decode_plane(cv2.imencode(form, cv2.merge([deep] * 3))[1].tobytes(), "x") == GRAY).all()


def test_sixteen_bits_whose_high_values_are_dark_are_turned_round_as_eight_are():
    for depth in (GRAY, GRAY.astype(np.uint16) * 256 + 77):
        picture = saved(Image.fromarray(depth), "TIFF", tiffinfo={262: 0})
        stored = GRAY if depth.dtype == np.uint8 else 255 - GRAY  # Pillow turns 8 bits round when it writes, too
        assert (decode_plane(picture, "x") == stored).all()


def test_twelve_bits_in_sixteen_are_read_by_the_upper_eight_of_sixteen_and_found_out_by_the_bits_they_use():
    data = saved(Image.fromarray(GRAY.astype(np.uint16) * 16 + 7), "PNG")
    assert (decode_plane(data, "x") == GRAY // 16).all()
    assert (kind_of(data, "x").bits, bits_used(data, "x")) == (16, 12)


def test_a_tiff_of_twelve_packed_bits_is_read_by_its_upper_eight():
    values = GRAY.astype(np.uint16).ravel() * 16 + 5
    first, second = values[0::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    entries = {256: SHAPE[1], 257: SHAPE[0], 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: SHAPE[0], 279: len(packed)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    data = struct.pack("<2sHI", b"II", 42, 8 + len(packed)) + packed
    data += struct.pack("<H", len(entries)) + table + struct.pack("<I", 0)
    assert (decode_plane(data, "x") == GRAY).all()
    assert kind_of(data, "x").bits == 12


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_thirty_two_bits_have_no_known_scale_and_are_refused(dtype):
    assert reason(saved(Image.fromarray(GRAY.astype(dtype)), "TIFF")) == "not_a_picture"


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(form):
    assert (decode_plane(saved(Image.fromarray(GRAY > 127), form), "x") == (GRAY > 127) * 255).all()


def test_colours_that_have_no_gray_are_refused():
    picture = Image.frombytes("LAB", (4, 4), bytes(48))
    assert reason(saved(picture, "TIFF")) == "not_a_picture"


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_picture_cut_off_anywhere_is_refused_unless_not_a_pixel_is_lost(way, data):
    cut = data.draw(st.integers(0, len(whole(way)) - 1))
    try:
        gray = decode_plane(whole(way)[:cut], "x")
    except FrameError as fault:
        assert fault.reason in ("truncated", "not_a_picture")
    else:
        assert (gray == decode_plane(whole(way), "x")).all()


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_picture_is_read_or_refused_and_never_anything_else(way, data):
    damaged = bytearray(whole(way))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=9)):
        damaged[at] = value
    try:
        assert decode_plane(bytes(damaged), "x").dtype == np.uint8
    except FrameError as fault:
        assert fault.reason in ("truncated", "not_a_picture", "pages", "pixels")


@pytest.mark.parametrize("way", ["jpeg", "progressive"])
def test_a_jpeg_without_its_end_is_refused_though_every_pixel_is_there(way):
    assert reason(whole(way)[:-2]) == "truncated"


def test_a_jpeg_whose_tail_is_zeros_still_to_be_written_is_refused():
    data = whole("jpeg")
    assert reason(data[: len(data) // 2] + bytes(len(data) - len(data) // 2)) == "truncated"


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    data = whole("jpeg")
    thumbnail = b"Exif\x00\x00" + whole("jpeg")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert reason((data[:2] + segment + data[2:])[: len(segment) + len(data) // 2]) in ("truncated", "not_a_picture")


@pytest.mark.parametrize("data", [b"no picture\n", b"\x00" * 500, b"\xff\xd8\xff", b"GIF89a" + bytes(40), b"<svg/>"])
def test_what_is_no_picture_of_ours_is_refused_whatever_its_name(tmp_path, data):
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(FrameError) as fault:
        read_plane(tmp_path / "x.jpg")
    assert fault.value.reason == "not_a_picture"


def png_header(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    idat = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, idat, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(50_000, 50_000), (12_000, 12_000), (4097, 4096), (1, 20_000_000)])
def test_a_header_that_claims_too_many_pixels_is_refused_before_they_are_allocated(size):
    tracemalloc.start()
    try:
        assert reason(png_header(*size)) == "pixels"
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_tiff_of_several_pages_is_refused_where_a_file_is_a_plane():
    assert reason(stack(2)) == "pages"


# -- several pages -----------------------------------------------------------------------------------------------------


def page(number: int, base: np.ndarray = GRAY) -> np.ndarray:
    return np.roll(base, 3 * number)


@cache
def stack(count: int, way: str = "tiff", deep: bool = False) -> bytes:
    base = GRAY.astype(np.uint16) * 256 + 77 if deep else GRAY
    first, *rest = (Image.fromarray(page(number, base)) for number in range(count))
    return saved(first, "TIFF", save_all=True, append_images=rest, **WAYS[way][1])


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("way", ["tiff", "tiff-lzw", "tiff-deflate", "tiff-big"])
def test_the_pages_of_a_stack_are_read_in_their_order(tmp_path, way, deep):
    path = tmp_path / "x.tif"
    path.write_bytes(stack(7, way, deep))
    pages, digest = read_pages(path, 7)
    assert all((gray == page(number)).all() for number, gray in enumerate(pages))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert kind_of(path.read_bytes(), "x").pages == 7


@pytest.mark.parametrize(("there", "wanted"), [(1, 7), (6, 7), (8, 7), (7, 1)])
def test_another_number_of_pages_than_planes_names_both_counts_and_the_remedy(there, wanted):
    with pytest.raises(FrameError, match=rf"holds {there} pages, {wanted} planes are declared: `planes`") as fault:
        decode_pages(stack(there), "x", wanted)
    assert fault.value.reason == "pages"


def test_a_damaged_page_spoils_no_other_one():
    data = bytearray(stack(7, "tiff-jpeg"))
    starts = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]  # each page's coded pixels
    assert len(starts) == 7
    data[starts[3] - 4 : starts[3] + 60] = bytes(64)
    pages = decode_pages(bytes(data), "x", 7)
    assert [number for number, gray in enumerate(pages) if isinstance(gray, FrameError)] == [3]
    assert pages[3].reason == "truncated" and "page 4" in pages[3].detail


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("tiff")])
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_of_a_stack_cut_off_anywhere_no_wrong_pixel_is_read(way, data):
    whole_stack = stack(3, way)
    cut = data.draw(st.integers(0, len(whole_stack) - 1))
    try:
        pages = decode_pages(whole_stack[:cut], "x", 3)
    except FrameError as fault:
        assert fault.reason in ("truncated", "not_a_picture", "pages")
        return
    for gray, as_whole in zip(pages, decode_pages(whole_stack, "x", 3), strict=True):
        assert isinstance(gray, FrameError) or (gray == as_whole).all()


def test_a_page_that_claims_too_many_pixels_is_refused_before_they_are_allocated():
    data = bytearray(stack(3))
    wide = struct.pack("<HHI", 256, 3, 1) + struct.pack("<H", SHAPE[1])
    if wide not in data:
        wide = struct.pack("<HHII", 256, 4, 1, SHAPE[1])
    at = data.rindex(wide)  # of the last page
    data[at : at + 12] = struct.pack("<HHII", 256, 4, 1, 50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError) as fault:
            if isinstance(last := decode_pages(bytes(data), "x", 3)[2], FrameError):
                raise last
        assert fault.value.reason == "pixels"
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_the_pages_of_a_file_made_of_empty_ones_are_not_counted_to_the_end(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PAGES", 3)
    with pytest.raises(FrameError, match="holds over 3 pages") as fault:
        decode_pages(stack(7), "x", 7)
    assert fault.value.reason == "pages"


def test_the_digest_is_that_of_the_files_bytes(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(whole("png"))
    gray, digest = read_plane(path)
    assert digest == hashlib.sha256(whole("png")).hexdigest()
    assert (gray == GRAY).all()


def test_an_empty_a_vanished_and_an_unreadable_file_are_named(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name, expected in (("empty.jpg", "empty"), ("gone.jpg", "vanished"), ("folder.jpg", "unreadable")):
        with pytest.raises(FrameError) as fault:
            read_plane(tmp_path / name)
        assert fault.value.reason == expected


def test_a_file_over_the_limit_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 100)
    (tmp_path / "x.png").write_bytes(whole("png"))
    with pytest.raises(FrameError) as fault:
        read_plane(tmp_path / "x.png")
    assert fault.value.reason == "too_large"


def test_a_tiff_whose_directories_go_round_in_a_ring_has_an_end():
    data = bytearray(stack(2))
    first = struct.unpack_from("<I", data, 4)[0]
    after = first + 2 + 12 * struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, after, first)
    assert (decode_plane(bytes(data), "x") == page(0)).all()


def test_a_bigtiff_that_points_beyond_all_files_is_truncated():
    data = io.BytesIO()
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(data, "TIFF", big_tiff=True)
    changed = bytearray(data.getvalue())
    directory = struct.unpack_from("<Q", changed, 8)[0]
    entries = struct.unpack_from("<Q", changed, directory)[0]
    struct.pack_into("<Q", changed, directory + 8 + 20 * entries, 2**63 + 5)  # where the next directory is said to lie
    with pytest.raises(FrameError) as fault:
        decode_plane(bytes(changed), "big.tif")
    assert fault.value.reason == "truncated"
