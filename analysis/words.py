"""Numbers of things in words. Imports nothing heavy."""


def plural(count: int, noun: str) -> str:
    """A number of things: "1 split", "1,010 trials"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
