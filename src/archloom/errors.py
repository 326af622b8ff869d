"""What can go wrong for a user, and the exit code each thing ends the command line with.

    ArchloomError            1  something failed
    ├── ConfigError          2  a configuration, option or term is wrong
    │   └── TermError        2  a term does not parse or is ill-typed (`archloom.search_space.terms`)
    ├── NotFoundError        3  no such thing, or more than one
    └── EnvironmentProblem   7  a store, folder, device or service cannot be used

Two codes are answers and no errors: 5, a budget is spent (the campaign can be resumed), and 6, a replay differs.
Every message says what was given, which rule it broke, and what to do next.
"""


class ArchloomError(Exception):
    """Base of every error that a user can cause and mend."""

    exit_code = 1


class ConfigError(ArchloomError):
    exit_code = 2


class NotFoundError(ArchloomError):
    exit_code = 3


class EnvironmentProblem(ArchloomError):
    exit_code = 7
