"""Numbers with their nouns, as sentences say them."""

__all__ = ["number_of"]


def number_of(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 image", "1,234 images"; `plural` is that of "copy", say."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
