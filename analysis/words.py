"""Numbers of things, and errors, in words. Imports nothing heavy."""


def plural(count: int, noun: str) -> str:
    """A number of things: "1 split", "1,010 trials"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def cause(error: BaseException) -> str:
    """Why a server could not be reached: the system's own word where it has one, else the error's first line."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
