"""Counts before their nouns."""


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count before its noun: "1 sample", "0 samples", "1,200 samples".

    `many`: the plural, where it is not `one` with an s; either may go on behind the noun ("reply was", "replies were").
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
