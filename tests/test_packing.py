"""Packing: what goes in comes out bit for bit; equal content is equal bytes; torn or foreign bytes are an EngineError.

What is promised of damaged bytes: a cut is always found. A flipped byte is either found or gives other content that is
well formed; telling that it is other content is the work of the digest the bytes are named by, not of `unpack`.
"""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engines.contract import EngineError
from engines.packing import pack, unpack

MAGIC = b"PLCD1\n"
thorough = settings(max_examples=50, deadline=None)  # a shared box may pause in any example
NUMBERS = ("?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
headers = st.dictionaries(st.text(max_size=8), json_values, max_size=4)
number_arrays = npst.arrays(
    dtype=st.sampled_from(NUMBERS).flatmap(lambda code: st.sampled_from([f"<{code}", f">{code}"])).map(np.dtype),
    shape=npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
contents = st.tuples(headers, st.dictionaries(st.text(max_size=6), number_arrays, max_size=3))

SMALL = pack({"segment": 3, "committed_h": 6.0}, {"state": np.arange(12, dtype=np.float32).reshape(3, 4)})


def with_head(head: Any, body: bytes = b"") -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return MAGIC + struct.pack("<Q", len(text)) + text + body


def one_array(dtype: Any, shape: Any, body: bytes = b"") -> bytes:
    return with_head({"header": {}, "arrays": [["state", dtype, shape]]}, body)


@thorough
@given(contents)
def test_what_is_packed_comes_back_bit_for_bit(content: tuple[dict[str, Any], dict[str, np.ndarray]]):
    header, arrays = content
    got_header, got = unpack(pack(header, arrays))
    assert got_header == header
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got[name].shape == array.shape
        assert got[name].dtype == array.dtype.newbyteorder("<")
        assert got[name].tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()


@thorough
@given(contents)
def test_packing_what_was_unpacked_gives_the_same_bytes(content: tuple[dict[str, Any], dict[str, np.ndarray]]):
    blob = pack(*content)
    assert pack(*unpack(blob)) == blob


@thorough
@given(number_arrays)
def test_equal_content_gives_equal_bytes_whatever_its_order_in_memory(array: np.ndarray):
    blob = pack({"a": 1, "b": 2}, {"x": array, "y": np.zeros(2)})
    wide = np.zeros((*array.shape, 2), array.dtype)
    wide[..., 0] = array
    for twin in (np.array(array, order="F"), wide[..., 0], array.astype(array.dtype.newbyteorder(">"))):
        assert pack({"b": 2, "a": 1}, {"y": np.zeros(2), "x": twin}) == blob


def test_unpacked_arrays_cannot_be_written_to():
    _, arrays = unpack(SMALL)
    assert not arrays["state"].flags.writeable


@thorough
@given(contents, st.data())
def test_any_truncation_is_refused(content: tuple[dict[str, Any], dict[str, np.ndarray]], data: st.DataObject):
    blob = pack(*content)
    with pytest.raises(EngineError):
        unpack(blob[: data.draw(st.integers(0, len(blob) - 1))])


@thorough
@given(contents, st.binary(min_size=1, max_size=20))
def test_bytes_too_many_are_refused(content: tuple[dict[str, Any], dict[str, np.ndarray]], more: bytes):
    with pytest.raises(EngineError):
        unpack(pack(*content) + more)


def opens_or_is_refused(blob: bytes) -> None:
    try:
        header, arrays = unpack(blob)
    except EngineError:
        return
    assert isinstance(header, dict)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


@thorough
@given(contents, st.data())
def test_a_flipped_byte_never_crashes(content: tuple[dict[str, Any], dict[str, np.ndarray]], data: st.DataObject):
    blob = bytearray(pack(*content))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
    opens_or_is_refused(bytes(blob))


def test_no_flip_of_any_byte_of_a_small_pack_crashes():
    for at in range(len(SMALL)):
        for value in range(256):
            opens_or_is_refused(SMALL[:at] + bytes([value]) + SMALL[at + 1 :])


@thorough
@given(st.binary(max_size=60), st.booleans())
@example(b"", False)
def test_foreign_bytes_are_refused(noise: bytes, with_magic: bool):
    with pytest.raises(EngineError):
        unpack(MAGIC + noise if with_magic else noise)


@pytest.mark.parametrize("size", [2**64 - 1, 2**63, 2**40, len(SMALL)])
def test_a_huge_header_length_reads_no_further_than_the_bytes_there_are(size: int):
    with pytest.raises(EngineError):
        unpack(MAGIC + struct.pack("<Q", size) + SMALL[len(MAGIC) + 8 :])


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(with_head([]), id="a list for a head"),
        pytest.param(with_head({"arrays": []}), id="no header"),
        pytest.param(with_head({"header": 7, "arrays": []}), id="a number for a header"),
        pytest.param(with_head({"header": {}}), id="no arrays"),
        pytest.param(with_head({"header": {}, "arrays": [["state"]]}), id="an array without dtype and shape"),
        pytest.param(with_head(b"[" * 100_000), id="a head nested without end"),
        pytest.param(one_array("|O", [1], b"12345678"), id="an array of objects"),
        pytest.param(one_array("<U0", [1]), id="letters of no width"),
        pytest.param(one_array(None, [1], b"12345678"), id="no dtype"),
        pytest.param(one_array("<f4", [-1], b"1234"), id="a negative side"),
        pytest.param(one_array("<f4", [-1, -1], b"1234"), id="two negative sides"),
        pytest.param(one_array("<f4", [-2], b"123456"), id="a negative side over an odd number of bytes"),
        pytest.param(one_array("<f4", [10**18]), id="more numbers than there are bytes"),
        pytest.param(one_array("<f4", [0, 10**30]), id="no numbers in a shape beyond memory"),
        pytest.param(one_array("<f4", [1] * 100, b"1234"), id="more axes than an array can have"),
        pytest.param(with_head(b'{"header":{},"arrays":[["state","<f4",[1e999]]]}'), id="an endless side"),
    ],
)
def test_a_head_that_makes_no_sense_is_refused(blob: bytes):
    with pytest.raises(EngineError):
        unpack(blob)


def test_what_cannot_come_back_is_not_packed():
    with pytest.raises(EngineError, match="'state'"):
        pack({}, {"state": np.array([object()])})
