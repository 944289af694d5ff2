"""Errors that are written for the user: one sentence that says what failed and what to do."""


class CharRNNError(Exception):
    """The work failed. The message is shown as it stands; the exit code is 1."""


class UsageError(CharRNNError):
    """An option's value is impossible. The exit code is 2."""


def printable(text: str) -> str:
    """`text` with every character that a terminal might act on or fail to show made visible.

    File names and corpora may hold escape sequences; none may reach a terminal raw in a message.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
