"""Exceptions that are meant for people."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says in one sentence what was wrong, what was expected and what to do. The command
    line prints it without a traceback and leaves with exit code 2; from Python it is a
    ``ValueError`` like any other.
    """


class Diverged(InputError):
    """A fit, or every start of one, led to no detector that can score."""
