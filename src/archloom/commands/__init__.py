"""The commands of `archloom`, a file for each group. Every body imports what it needs, so that `--help` stays fast."""
