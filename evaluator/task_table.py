"""The kinds of proxy tasks, as data: what each asks, its source, its dials, and the pattern it is posed under.

No torch here, so that a configuration is checked before anything is loaded. Rules that join several dials are stated by
the runners, in `evaluator/tasks/`.
"""

from collections.abc import Mapping

from archloom.evaluator.dials import Dial, Kind, evaluated, ramp

KINDS: Mapping[str, Kind] = {
    "mqar": Kind(
        about="multi-query associative recall: pairs, then queries that each ask for a key's value",
        source="Arora et al. 2023, Zoology, arXiv:2312.04927, section 4",
        vocabulary=64,
        length=32,
        dials=(
            Dial(name="pairs", default=8, least=2, about="key-value pairs to remember"),
            ramp(0.4),
            evaluated(512),
        ),
    ),
    "text": Kind(
        about="next-byte prediction on real text: the standard library's sources, or any file or folder",
        source="-",
        vocabulary=256,
        length=128,
        batch=16,
        dials=(
            Dial(name="source", default="stdlib", about="`stdlib`, or a folder or file of text"),
            Dial(name="digest", default="", about="SHA-256 of the corpus; unchecked if empty"),
            Dial(name="windows", default=64, least=1, about="sequences of the evaluation set"),
        ),
    ),
}
"""Every kind of task, by name."""
