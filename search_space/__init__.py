"""The algebra of mixers: types, terms, text, identity, sampling, variation, costs, zoo. Pure Python, no torch."""

GRAMMAR_VERSION = 2
"""Changes whenever a text of an older version could mean something else."""
