"""The one exception users meet, and how names of files stand in what is told of them."""

__all__ = ["InputError", "readable"]


class InputError(ValueError):
    """An input that ecood refuses.

    The message is one sentence: what was given, what was expected and what to do.
    """


def readable(text: str) -> str:
    """The text in one line: what cannot be printed, or turns its direction, as escapes.

    Names of files are data: they may hold newlines, codes that drive a terminal, or no text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
