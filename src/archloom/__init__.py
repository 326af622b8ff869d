"""archloom: an autonomous laboratory that discovers attention and token-mixer architectures."""

__version__ = "0.1.0"
