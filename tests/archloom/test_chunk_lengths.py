"""`archloom doctor --kernels`: timings are those of the lengths they name, and the file keeps the better ones."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from archloom import chunk_lengths
from archloom.chunk_lengths import Size, Timing
from archloom.errors import ConfigError
from archloom.main import app

SMALL = Size(batch=1, steps=20, heads=1, width=4)


def timing(*, default: float = 3.0, gain: float = 1.5, decay: str = "head") -> Timing:
    return Timing(
        primitive="delta_rule", decay=decay, size="1x20x1x4", default=default, fastest=2.0, chunk=16, gain=gain
    )


def test_every_primitive_with_chunks_is_timed() -> None:
    found = chunk_lengths.measure([SMALL], rounds=1)
    names = {(each.primitive, each.decay) for each in found}
    decays = ("none", "head", "channel")
    assert names == {(name, decay) for name in ("linear_attention", "resolvent", "delta_rule") for decay in decays}
    assert all(each.default > 0 and each.fastest > 0 and each.chunk in chunk_lengths.CANDIDATES for each in found)
    assert {each.size for each in found} == {"1x20x1x4"}


def test_the_fastest_candidate_is_found_and_the_first_turn_left_out() -> None:
    turns: list[int | None] = []

    def step(chunk: int | None) -> float:
        turns.append(chunk)
        return 1e-9 if len(turns) <= 5 else {None: 4e-3, 16: 3e-3, 32: 1e-3, 64: 2e-3, 128: 5e-3}[chunk]

    long = Size(batch=1, steps=200, heads=1, width=4)
    found = chunk_lengths._timing("delta_rule", "head", long, step, 2)
    assert (found.chunk, found.better) == (32, 32)
    assert (found.default, found.fastest, found.gain) == (pytest.approx(4), pytest.approx(1), pytest.approx(4))
    assert turns == [None, 16, 32, 64, 128] * 3


def test_a_small_gain_is_none() -> None:
    assert timing(default=2.1).better is None
    assert timing(default=2.3).better == 16


def test_a_gain_of_one_lucky_round_is_none() -> None:
    assert timing(default=9.0, gain=1.05).better is None


def test_the_file_keeps_what_is_better_and_what_others_measured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "chunk_lengths.json"
    chunk_lengths.keep([timing(), timing(decay="none", default=2.0)], "one", path)
    chunk_lengths.keep([timing()], "other", path)
    held = {"delta_rule, head, 1x20x1x4": 16}
    assert chunk_lengths.recall(path) == {"one": held, "other": held}
    chunk_lengths.keep([timing(default=2.0)], "one", path)  # measured again, no longer better
    assert chunk_lengths.recall(path) == {"one": {}, "other": held}
    assert [each.name for each in path.parent.iterdir()] == ["chunk_lengths.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"one": 3}'])
def test_a_file_that_is_none_is_replaced(text: str, tmp_path: Path) -> None:
    path = tmp_path / "chunk_lengths.json"
    path.write_text(text)
    assert chunk_lengths.recall(path) == {}
    chunk_lengths.keep([timing()], "one", path)
    assert "one" in chunk_lengths.recall(path)


@pytest.mark.parametrize("text", ["8x512", "8x512x2xwide", "0x8x1x4", "8,512,2,32"])
def test_a_size_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected BxTxHxK"):
        chunk_lengths.parse_size(text)


def test_the_command_prints_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["doctor", "--kernels", "--size", "1x20x1x4", "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)) == 9
    assert (tmp_path / "archloom" / "chunk_lengths.json").exists()
    done = CliRunner().invoke(app, ["doctor", "--kernels", "--size", "1x20x1x4"])
    assert "default ms" in done.stdout
    assert "chunk_lengths.json" in done.stderr


def test_a_size_alone_is_told() -> None:
    done = CliRunner().invoke(app, ["doctor", "--size", "1x20x1x4"])
    assert done.exit_code == 2
    assert "add --kernels" in done.stderr
