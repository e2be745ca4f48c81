"""The one exception users meet."""

__all__ = ["InputError"]


class InputError(ValueError):
    """An input that ecood refuses.

    The message is one sentence: what was given, what was expected and what to do.
    """
