"""Messages over a stream that delivers them in any pieces, and what else a stream may hold."""

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.evaluator.executors.messages import HEADER, LARGEST, MARK, Garbled, Inbox, pack

OBJECTS = st.lists(st.one_of(st.none(), st.integers(), st.text(), st.binary(max_size=300)), max_size=5)


@given(messages=OBJECTS, cuts=st.lists(st.integers(0, 2000), max_size=20))
def test_messages_arrive_whole_and_in_order_whatever_the_pieces(messages: list[object], cuts: list[int]) -> None:
    stream = b"".join(map(pack, messages))
    inbox, found = Inbox(), []
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, end in itertools.pairwise(places):
        found += inbox.feed(stream[start:end])
    assert found == messages
    assert inbox.feed(b"") == []


@given(message=st.integers(), garbage=st.binary(min_size=1, max_size=50))
def test_what_is_no_message_is_refused_and_never_unpickled(message: int, garbage: bytes) -> None:
    """Anything but the beginning of a mark is refused at once; the beginning of one waits for the rest."""
    inbox = Inbox()
    assert inbox.feed(pack(message)) == [message]
    if MARK.startswith(garbage[: len(MARK)]) or garbage.startswith(MARK):
        return
    with pytest.raises(Garbled, match="no message"):
        inbox.feed(garbage)


@given(message=st.text(min_size=1), place=st.integers(0), flip=st.integers(1, 255))
def test_a_damaged_message_is_refused(message: str, place: int, flip: int) -> None:
    damaged = bytearray(pack(message))
    body = place % (len(damaged) - HEADER.size) + HEADER.size
    damaged[body] ^= flip
    with pytest.raises(Garbled, match="arrived damaged"):
        Inbox().feed(bytes(damaged))


def test_an_announcement_beyond_the_largest_is_refused() -> None:
    assert Inbox().feed(HEADER.pack(MARK, LARGEST, 0)) == []
    with pytest.raises(Garbled, match="was announced"):
        Inbox().feed(HEADER.pack(MARK, LARGEST + 1, 0))


def test_a_message_is_a_header_and_a_pickle() -> None:
    assert pickle.loads(pack({"a": 1})[HEADER.size :]) == {"a": 1}
