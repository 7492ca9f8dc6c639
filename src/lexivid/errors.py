"""The errors that a user can cause. Each message says what was wrong, with the value, and what to do.

`LexividError` is a `ValueError`, so that a caller who knows nothing of this package catches what they expect.
Anything else that escapes is a fault of this program, not of its user.
"""


class LexividError(ValueError):
    """The call, or something that it names, is wrong."""


class MediaError(LexividError):
    """A file cannot be used. In a list of files it becomes one row that says why, and the others go on."""


class ModelError(LexividError):
    """A model is unknown, incomplete, not on this machine, or cannot do what was asked."""


class LabelError(LexividError):
    """The labels or the sentence templates cannot be used."""


class MissingExtraError(LexividError):
    """An optional dependency is needed; the message names the extra that brings it."""


def printable(text: str) -> str:
    """File names come from strangers: no control characters reach the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
