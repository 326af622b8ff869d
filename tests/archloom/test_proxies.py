"""The measurement of proxy tasks: arithmetic by hand, an interrupted record that goes on, and the command."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from archloom.config import ProtocolSection
from archloom.db.records import Measurement, TrialSpec
from archloom.evaluator.executors.inline import InlineExecutor
from archloom.evaluator.panel import CLAIMS, NAMES, system
from archloom.evaluator.task_table import KINDS
from archloom.protocol import section_protocol
from archloom.proxies import LEAST_NOISE, Run, claim_reports, measure, task_reports
from archloom.search_space.terms import depth

SMOKE = section_protocol(ProtocolSection.model_validate({"suite": "smoke"}), baselines=())


def runs(scores: dict[str, list[float]]) -> list[Run]:
    return [
        Run(protocol="p", task="mqar", system=name, seed=seed, steps=9, score=score, seconds=seed + 1.0)
        for name, each in scores.items()
        for seed, score in enumerate(each)
    ]


def test_spread_noise_and_signal_by_hand() -> None:
    (report,) = task_reports(runs({"a": [0.9, 1.0], "b": [0.1, 0.2], "c": [0.5, 0.5]}))
    assert report.scores == pytest.approx({"a": 0.95, "c": 0.5, "b": 0.15})
    assert list(report.scores) == ["a", "c", "b"]
    assert report.spread == pytest.approx(math.sqrt((0.4167**2 + 0.0333**2 + 0.3833**2) / 2), rel=1e-3)
    assert report.noise == pytest.approx(math.sqrt((0.005 + 0.005) / 3))
    assert report.discriminates
    assert report.seconds == 1.5


def test_seeds_that_agree_have_the_least_noise_and_equal_systems_no_signal() -> None:
    (report,) = task_reports(runs({"a": [0.5, 0.5], "b": [0.5, 0.5]}))
    assert (report.noise, report.signal) == (LEAST_NOISE, 0.0)
    assert not report.discriminates


def test_claims_hold_by_their_nearest_levels_and_what_was_not_run_is_not_held() -> None:
    good = {"softmax": [1.0], "delta": [0.9], "linear": [0.7], "linear, 1 head": [0.8], "linear, 4 heads": [0.6]}
    found = {each.claim.says: each for each in claim_reports(task_reports(runs(good)), SMOKE)}
    solved = found["attention solves recall at small width"]
    assert solved.holds
    assert solved.by == pytest.approx(0.05)
    assert found["recall of a linear mixer grows with its state"].by == pytest.approx(0.1)
    hybrid = found["a hybrid of convolution and attention recovers recall"]
    assert math.isnan(hybrid.by)
    assert not hybrid.holds


def test_the_panel_is_whole() -> None:
    assert len(NAMES) >= 12
    assert all(depth(system(name, depth=2)) == 2 for name in NAMES)
    for claim in CLAIMS:
        assert claim.kind in KINDS
        assert {name for level in claim.levels for name in level} <= set(NAMES)


def counted(spec: TrialSpec) -> Measurement:
    with Path("trials").open("a") as file:
        file.write(f"{spec.key.candidate}\n")
    return Measurement(key=spec.key, score=0.5, metrics={"train_seconds": 1.0}, environment={}, seconds=2.0)


def test_an_interrupted_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "runs.jsonl"

    def go(systems: tuple[str, ...], protocol=SMOKE) -> list[Run]:  # type: ignore[no-untyped-def]
        with InlineExecutor(work=counted) as executor:
            return measure(
                protocol, systems=systems, seeds=2, executor=executor, record=record, progress=lambda run, left: None
            )

    assert len(go(("softmax",))) == 2
    with record.open("a") as file:
        file.write('{"protocol": "cut o')  # killed while it wrote
        file.write("\n")
    assert len(go(("softmax", "linear"))) == 4
    assert len(Path("trials").read_text().splitlines()) == 4, "nothing is trained twice"
    assert len(go(("softmax",), replace(SMOKE, threads=2))) == 2, "another protocol's runs are not taken"
    assert len(Path("trials").read_text().splitlines()) == 6
    assert {json.loads(line)["task"] for line in record.read_text().splitlines() if "cut o" not in line} == {"mqar"}
