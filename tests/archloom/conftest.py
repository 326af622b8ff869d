"""A campaign small enough for tests: seconds on one core, two rungs, every part of the loop."""

from collections.abc import Callable
from pathlib import Path

import pytest

TEXT = """
[campaign]
name = "small"
store = {store}
[budget]
candidates = 6
[protocol]
width = 16
depth = 1
[protocol.training]
warmup = 2
[[protocol.tasks]]
name = "mqar"
vocabulary = 16
length = 12
batch = 8
pairs = 3
evaluation = 32
[[protocol.rungs]]
stages = [{{ task = "mqar", steps = 8 }}]
[[protocol.rungs]]
stages = [{{ task = "mqar", steps = 8, seeds = [1, 2] }}]
[search]
baselines = ["mha", "linear_attention"]
lookahead = 3
max_size = 24
[executor]
kind = "inline"
workers = 2
"""


@pytest.fixture(scope="session")
def campaign_file() -> Callable[[Path], Path]:
    """Writes the small campaign, whose store is `small.db` in the same folder."""

    def write(folder: Path) -> Path:
        path = folder / "small.toml"
        path.write_text(TEXT.format(store=f'"{folder / "small.db"}"'))
        return path

    return write
