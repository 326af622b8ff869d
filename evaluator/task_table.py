"""The kinds of proxy tasks, as data: what each asks, its source, its dials, and the pattern it is posed under.

No torch here, so that a configuration is checked before anything is loaded. Rules that join several dials are stated by
the runners, in `evaluator/tasks/`.
"""

from collections.abc import Mapping

from archloom.evaluator.dials import Dial, Kind, evaluated, ramp
from archloom.search_space.patterns import CAUSAL_CROSS, NONCAUSAL, NONCAUSAL_CROSS

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
    "in_context_recall": Kind(
        about="pairs from a dictionary of the sequence's own, over and over: the value wherever a key comes again",
        source="Poli et al. 2024, MAD, arXiv:2403.17844",
        vocabulary=16,
        length=64,
        batch=32,
        dials=(
            Dial(name="pairs", default=8, least=2, about="key-value pairs of a sequence's dictionary"),
            ramp(0.4),
            evaluated(256),
        ),
    ),
    "fuzzy_recall": Kind(
        about="in-context recall of keys and values that are motifs of several symbols",
        source="Poli et al. 2024, MAD, arXiv:2403.17844",
        vocabulary=16,
        length=64,
        batch=32,
        dials=(
            Dial(name="pairs", default=4, least=2, about="key-value pairs of a sequence's dictionary"),
            Dial(name="motif", default=2, least=2, most=8, about="most symbols of a key, and of a value"),
            ramp(0.4),
            evaluated(256),
        ),
    ),
    "noisy_recall": Kind(
        about="in-context recall with noise in place of some pairs",
        source="Poli et al. 2024, MAD, arXiv:2403.17844",
        vocabulary=32,
        length=64,
        batch=32,
        dials=(
            Dial(name="pairs", default=8, least=2, about="key-value pairs of a sequence's dictionary"),
            Dial(name="noise", default=0.2, least=0, most=0.9, about="share of slots that hold noise"),
            Dial(name="noise_symbols", default=16, least=1, about="symbols of noise"),
            ramp(0.4),
            evaluated(256),
        ),
    ),
    "selective_copying": Kind(
        about="symbols among blanks, to be said in order at the end",
        source="Poli et al. 2024, MAD, arXiv:2403.17844; Gu & Dao 2023, arXiv:2312.00752",
        vocabulary=8,
        length=32,
        dials=(
            Dial(name="tokens", default=4, least=1, most=256, about="symbols to copy"),
            ramp(0.4),
            evaluated(256),
        ),
    ),
    "compression": Kind(
        about="a sequence of bits, to be given back whole from the output at its last token alone",
        source="after Poli et al. 2024, MAD, arXiv:2403.17844",
        vocabulary=16,
        length=17,
        dials=(
            Dial(name="bits", default=1, least=1, most=16, about="bits of a token"),
            ramp(0.4),
            evaluated(512),
        ),
        vectors=True,
    ),
    "memorisation": Kind(
        about="a fixed map from keys to values, learnt in the weights; its score goes against language modelling",
        source="Poli et al. 2024, MAD, arXiv:2403.17844",
        vocabulary=256,
        length=32,
        batch=32,
        dials=(evaluated(256),),
    ),
    "parity": Kind(
        about="the parity of the bits so far, at lengths beyond training",
        source="Grazzi et al. 2024, arXiv:2411.12537, theorem 1",
        vocabulary=2,
        length=64,
        dials=(
            Dial(name="trained", default=32, least=1, about="longest words of training"),
            ramp(0.5),
            evaluated(256),
        ),
    ),
    "permutations": Kind(
        about="the product so far of permutations, at lengths beyond training",
        source="Merrill, Petty & Sabharwal 2024, arXiv:2404.08819",
        vocabulary=6,
        length=48,
        dials=(
            Dial(name="group", default="s3", choices=("s3", "a5", "s5"), about="group of permutations"),
            Dial(
                name="generators",
                default="transpositions",
                choices=("all", "transpositions"),
                about="what words are made of: every element, or adjacent swaps",
            ),
            Dial(name="trained", default=16, least=1, about="longest words of training"),
            ramp(0.5),
            evaluated(256),
        ),
    ),
    "bigram_backcopy": Kind(
        about="a bigram chain with triggers, after which the symbol before the trigger is copied",
        source="Guo et al. 2024, Active-dormant attention heads, arXiv:2410.13835, section 2",
        vocabulary=64,
        length=64,
        batch=32,
        dials=(
            Dial(name="triggers", default=3, least=1, about="symbols after which the one before is copied"),
            Dial(name="share", default=0.15, least=0.01, most=0.9, about="how often a trigger follows a symbol"),
            Dial(name="concentration", default=0.3, least=0.01, most=100, about="evenness of the bigram's rows"),
            evaluated(256),
        ),
    ),
    "in_context_regression": Kind(
        about="a linear function shown by examples: predict it at each new input",
        source="Garg et al. 2022, arXiv:2208.01066, section 3",
        vocabulary=5,
        length=32,
        dials=(
            Dial(name="dimension", default=4, least=1, about="inputs of the function"),
            ramp(0.4),
            evaluated(256),
        ),
        vectors=True,
    ),
    "test_time_regression": Kind(
        about="a stream of keys and values of a linear map that changes: its value at other keys, all along",
        source="after Zuo et al. 2025, arXiv:2510.01450, and Wang et al. 2025, arXiv:2501.12352",
        vocabulary=9,
        length=64,
        batch=32,
        dials=(
            Dial(name="dimension", default=4, least=1, about="channels of a key, and of a value"),
            Dial(name="pieces", default=2, least=1, about="stretches of the stream, each with a map of its own"),
            ramp(0.4),
            evaluated(256),
        ),
        vectors=True,
    ),
    "passkey": Kind(
        about="the digits after a marker in a text of filler, asked at its end; longer texts than in training too",
        source="after Mohtashami & Jaggi 2023, Landmark Attention, arXiv:2305.16300",
        vocabulary=24,
        length=128,
        batch=64,
        dials=(
            Dial(name="digits", default=3, least=1, about="digits of the key"),
            Dial(name="trained", default=32, least=3, about="tokens of a text in training; evaluated doubled too"),
            Dial(name="decoys", default=0.2, least=0, most=1, about="share of the filler that are digits"),
            ramp(0.4),
            evaluated(128),
        ),
    ),
    "mirror": Kind(
        about="a word and its copy at a changing distance, each with holes: say what the holes hid",
        source="pattern noncausal self of Zhang et al. 2023, CAB, arXiv:2210.07661; the task is our own",
        vocabulary=34,
        length=13,
        batch=32,
        dials=(
            Dial(name="gap", default=1, least=0, about="fillers, any number of which may lie between the copies"),
            Dial(name="holes", default=3, least=2, about="places of the word that one of the copies hides"),
            ramp(0.4),
            evaluated(512),
        ),
        pattern=NONCAUSAL,
    ),
    "set_recall": Kind(
        about="a set of pairs as the source; its keys, all answered at once (the length counts pairs)",
        source="pattern noncausal cross of Zhang et al. 2023, CAB, arXiv:2210.07661; the task is our own",
        vocabulary=32,
        length=8,
        dials=(ramp(0.4), evaluated(512)),
        pattern=NONCAUSAL_CROSS,
    ),
    "translation": Kind(
        about="a sentence said backwards through a dictionary, one word at a time (the length counts words)",
        source="pattern causal cross of Zhang et al. 2023, CAB, arXiv:2210.07661; the task is our own",
        vocabulary=34,
        length=8,
        dials=(ramp(0.4), evaluated(512)),
        pattern=CAUSAL_CROSS,
    ),
    "compositional": Kind(
        about="programs about a scene of objects, in combinations that were not trained",
        source="after Ito et al. 2024, gCOG, arXiv:2401.15030",
        vocabulary=25,
        length=12,
        dials=(
            Dial(name="features", default=8, least=7, about="colours, and shapes, that there are"),
            Dial(name="objects", default=3, least=3, about="most objects in a scene in training"),
            Dial(name="distractors", default=5, least=4, about="objects in the slice of the same name"),
            Dial(name="depth", default=2, least=2, most=3, about="of trained programs; evaluated one deeper too"),
            ramp(0.6),
            Dial(name="evaluation", default=256, least=1, about="sequences of each of the four slices"),
        ),
        pattern=NONCAUSAL_CROSS,
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
    "stories": Kind(
        about="next word of little stories, judged on words that only the story so far can tell",
        source="after Eldan & Li 2023, TinyStories, arXiv:2305.07759; the grammar is our own",
        vocabulary=64,
        length=64,
        batch=32,
        dials=(
            Dial(name="source", default="generated", about="`generated`, or a folder or file of stories"),
            Dial(name="characters", default=2, least=2, most=8, about="characters of a generated story"),
            Dial(name="tokens", default=1_000_000, least=1, about="words of training text to read from files"),
            Dial(name="common", default=1250, least=0, about="most frequent pairs of words in files, never recalled"),
            Dial(name="digest", default="", about="SHA-256 of the stories read from files; unchecked if empty"),
            Dial(name="others", default=0.03, least=0, most=1, about="share of words not recalled that are trained on"),
            ramp(0.6),
            evaluated(128),
        ),
    ),
}
"""Every kind of task, by name."""
