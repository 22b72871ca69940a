"""SPDY/3.1 frames: the words of the specification, any cut of the bytes, and peers that speak something else."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.apiserver import spdy

HEADERS = st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,15}", fullmatch=True), st.text(max_size=30), max_size=6)


def test_the_dictionary_is_the_specifications() -> None:
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2  # the id that every SPDY/3 peer sends in its first header


@given(st.lists(HEADERS, min_size=1, max_size=5), st.binary(max_size=200), st.data())
def test_frames_survive_any_cut_of_the_bytes(headers: list[dict[str, str]], data: bytes, draw: st.DataObject) -> None:
    sender, receiver = spdy.Codec(), spdy.Codec()
    wire = b""
    for number, each in enumerate(headers):
        wire += sender.syn_stream(2 * number + 1, each) + spdy.data_frame(2 * number + 1, data, is_last=True)
    wire += sender.syn_reply(1, headers[0]) + spdy.ping_frame(7) + spdy.reset_frame(3, 5)
    found = []
    while wire:
        size = draw.draw(st.integers(1, len(wire)))
        found += list(receiver.feed(wire[:size]))
        wire = wire[size:]
    opened = [frame for frame in found if frame.type == spdy.SYN_STREAM]
    assert [(frame.stream, frame.headers) for frame in opened] == [
        (2 * number + 1, each) for number, each in enumerate(headers)
    ]
    assert all(frame.data == data and frame.is_last for frame in found if frame.type == spdy.DATA)
    reply, ping, reset = found[-3:]
    assert (reply.type, reply.headers, ping.number) == (spdy.SYN_REPLY, headers[0], 7)
    assert (reset.stream, reset.number) == (3, 5)


@pytest.mark.parametrize(
    "wire",
    [
        struct.pack(">HHI", 0x8002, spdy.SYN_STREAM, 10) + b"\0" * 10,
        struct.pack(">HHI", 0x8003, spdy.SYN_STREAM, 20) + b"x" * 20,
        struct.pack(">HHI", 0x8003, spdy.PING, 2) + b"xx",
        struct.pack(">II", 1, 0xFFFFFF) + b"x",
    ],
    ids=["another version", "headers that are not compressed", "a cut ping", "a frame without end"],
)
def test_another_language_is_refused(wire: bytes) -> None:
    with pytest.raises(spdy.BadFrame):
        list(spdy.Codec().feed(wire))


def test_headers_without_end_are_refused() -> None:
    sender = spdy.Codec()
    with pytest.raises(spdy.BadFrame):
        list(spdy.Codec().feed(sender.syn_stream(1, {"a": "x" * 200_000})))


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        list(spdy.Codec().feed(data))
    except spdy.BadFrame:
        return
