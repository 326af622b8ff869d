"""The seed catalogue: whole, in known words, and in agreement with the zoo."""

import pytest

from archloom.errors import ConfigError
from archloom.search_space import catalogue, zoo
from archloom.search_space.catalogue import KINDS, PLACES, Row, State, expressed, headed, of_kinds, rows
from archloom.search_space.operations import OPERATIONS

SEEDS = 167


def test_every_seed_has_one_row() -> None:
    assert [row.number for row in rows()] == list(range(1, SEEDS + 1))
    assert len({row.name for row in rows()}) == SEEDS


def test_rows_are_written_in_known_words() -> None:
    for row in rows():
        assert row.adds
        assert row.kinds
        assert set(row.kinds) <= set(KINDS), row
        assert row.lands, row
        for place in row.lands:
            kind, colon, name = place.partition(":")
            assert kind in PLACES, row
            assert bool(colon) == bool(name) == (kind != "knowledge"), row


def test_mixers_and_blocks_land_in_the_algebra() -> None:
    assert all(expressed(row).state is not State.ELSEWHERE for row in of_kinds(("M", "B")))


@pytest.mark.parametrize("name", zoo.names())
def test_a_zoo_entry_and_its_row_agree(name: str) -> None:
    for number in headed(zoo.entry(name).catalogue):
        assert f"zoo:{name}" in catalogue.row(number).lands


def test_what_is_expressed_follows_from_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(number=1, name="", kinds="M", adds="", lands=("zoo:kda", "operation:conv", "zoo:nowhere", "task:mqar"))
    assert expressed(row).found == ("zoo:kda", "operation:conv")
    assert expressed(row).missing == ("zoo:nowhere",)
    assert expressed(row).state is State.PARTLY
    monkeypatch.setattr(catalogue, "OPERATIONS", {name: each for name, each in OPERATIONS.items() if name != "conv"})
    assert expressed(row).found == ("zoo:kda",)


@pytest.mark.parametrize(
    ("lands", "state"),
    [
        (("zoo:kda",), State.EXPRESSED),
        (("operation:nothing",), State.MISSING),
        (("knowledge", "task:mqar"), State.ELSEWHERE),
    ],
)
def test_states(lands: tuple[str, ...], state: State) -> None:
    assert expressed(Row(number=1, name="", kinds="M", adds="", lands=lands)).state is state


def test_headers_name_rows() -> None:
    assert headed("-") == ()
    assert headed("3") == (3,)
    assert headed("3, 118") == (3, 118)


@pytest.mark.parametrize("number", [0, -1, SEEDS + 1])
def test_a_row_that_is_not_there_is_an_error(number: int) -> None:
    with pytest.raises(ConfigError, match="1 to 167"):
        catalogue.row(number)
