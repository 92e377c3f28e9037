"""Show tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.report.tables import TerminalTable

# Columns that are shown in every terminal, wrapped if necessary.
_N_LEAST = 4


def show_table(shown: TerminalTable, *, n_left: int = 2) -> None:
    """Print a table: in a terminal as many columns as fit, elsewhere all.

    Args:
        shown: The table.
        n_left: Number of columns, from the left, that hold words.
    """
    from rich.console import Console

    console = Console()
    width = console.width if console.is_terminal else 160
    n_shown = _n_fitting(shown, width)
    rows = [row[:n_shown] for row in shown.rows]
    show_rows(shown.headings[:n_shown], rows, width, n_left=n_left, no_wrap=n_shown > _N_LEAST)
    if n_shown < len(shown.headings):
        console.print(f"A wider terminal and the page also show: {', '.join(shown.headings[n_shown:])}.")


def show_rows(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: int | None = None,
    *,
    n_left: int = 2,
    no_wrap: bool = False,
) -> None:
    """Print rows below their headings; by default as wide as the terminal, elsewhere 160 characters."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if index < n_left else "right", no_wrap=no_wrap)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    Console(width=width or (console.width if console.is_terminal else 160)).print(table)


def _n_fitting(shown: TerminalTable, width: int) -> int:
    """Return how many columns, from the left, fit into a terminal without wrapping."""
    used = 0
    for index, heading in enumerate(shown.headings):
        used += max(len(text) for text in (heading, *(row[index] for row in shown.rows))) + 2
        if used - 2 > width and index >= _N_LEAST:
            return index
    return len(shown.headings)
