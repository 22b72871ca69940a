"""A list goes out in pieces that together are the list, and as long as it says."""

from __future__ import annotations

import orjson
import pytest

from controlplane.apiserver.answer import PIECE_BYTES
from controlplane.apiserver.listing import Listing
from controlplane.apiserver.negotiation import negotiate
from controlplane.apiserver.responses import many
from controlplane.apiserver.watchcache import Entry
from pyk.api.kinds import CONFIG_MAP


def entry(size):
    data = orjson.dumps({"metadata": {"name": "x"}, "data": {"text": ""}})
    return Entry("default", "x", 7, data[:-3] + b"t" * max(size - len(data), 0) + data[-3:], {}, ())


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [100],
        [PIECE_BYTES],
        [PIECE_BYTES - 1, 100],
        [100] * 3000,
        [PIECE_BYTES, PIECE_BYTES],
        [PIECE_BYTES * 3, 100, PIECE_BYTES * 2],
        [PIECE_BYTES // 2] * 4,
    ],
)
def test_the_pieces_of_a_list_are_the_list(sizes):
    entries = [entry(size) for size in sizes]
    answer = many(CONFIG_MAP, Listing(entries, 9, "next", 3), negotiate(""), now=0, include="Metadata")
    promised = answer.length
    pieces = [bytes(piece) for piece in answer.pieces()]
    assert sum(map(len, pieces)) == promised
    assert max(map(len, pieces)) < PIECE_BYTES * 2 + max([*sizes, 0])
    document = orjson.loads(b"".join(pieces))
    assert document["items"] == [orjson.loads(each.data) for each in entries]
    assert document["metadata"] == {"resourceVersion": "9", "continue": "next", "remainingItemCount": 3}


def test_a_list_that_is_wanted_whole_is_the_same():
    entries = [entry(1000) for _ in range(500)]
    listing = Listing(entries, 9)
    in_pieces = many(CONFIG_MAP, listing, negotiate(""), now=0, include="Metadata")
    whole = many(CONFIG_MAP, listing, negotiate(""), now=0, include="Metadata")
    assert whole.whole() == b"".join(in_pieces.pieces())
    assert whole.length == in_pieces.length == len(whole.whole())
