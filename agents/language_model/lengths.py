"""How long prompts are, and how they are made to fit: the least useful items go first."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil

from archloom.agents.language_model.quoting import MARKER

MAX_PROMPT_TOKENS = 12_000
"""Tokens of what a researcher is told, both parts together."""
BYTES_PER_TOKEN = 2.9
"""Bytes of a token where text is words: prompts have 3.3 to 3.5, their terms alone 3.1 (o200k_base, cl100k_base)."""
FRAMES = 32
"""Tokens that a server's chat template adds to two messages."""

_WORDS = re.compile(rb"[A-Za-z0-9 ]+")


def tokens(text: str) -> int:
    """How many tokens a prompt takes, estimated on the safe side from its bytes in UTF-8: no tokeniser is asked.

    In a quotation, which may hold anything, each byte that is no letter, digit or space is a token of its own. Only
    quotations of letters drawn at random take more, up to 1.2 times the estimate of the prompt (cl100k_base).
    """
    size = 0.0
    for line in text.encode("utf-8", "replace").split(b"\n"):
        odd = len(_WORDS.sub(b"", line)) if line.startswith(MARKER.encode()) else 0
        size += odd + (len(line) + 1 - odd) / BYTES_PER_TOKEN
    return ceil(size)


def room_beside(system: str) -> int:
    """The tokens that `MAX_PROMPT_TOKENS` leaves beside the system part."""
    return MAX_PROMPT_TOKENS - FRAMES - tokens(system)


def fitted(
    sections: Mapping[str, Sequence[str]],
    *,
    order: Sequence[tuple[str, int]],
    render: Callable[[Mapping[str, Sequence[str]]], str],
    room: int,
) -> str:
    """The rendered sections within `room` tokens: while they take more, the last item of a section is left out.

    `order` says which: the first of its sections that has more items than the number beside it.
    Errors: `ValueError` if what is left when every number is reached still takes more.
    """
    left = {name: list(items) for name, items in sections.items()}
    while (size := tokens(text := render(left))) > room:
        excess = size - room
        while excess > 0:
            name = next((name for name, least in order if len(left[name]) > least), None)
            if name is None:
                raise ValueError(f"the prompt takes {size} tokens and may take {room}; nothing more can be left out")
            excess -= tokens(left[name].pop())  # rounded up, so that no more is left out than has to be
    return text
