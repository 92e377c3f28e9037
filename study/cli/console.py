"""Tables in the terminal."""

from __future__ import annotations

from analysis.report.tables import TerminalTable


def show(shown: TerminalTable, *, n_left: int = 2) -> None:
    """Prints a table: in a terminal as many columns as fit, else all.

    Args:
        shown: The table.
        n_left: Columns from the left that hold words.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    width = console.width if console.is_terminal else 160
    n_shown = _n_fitting(shown, width)
    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(shown.headings[:n_shown]):
        table.add_column(Text(heading), justify="left" if index < n_left else "right", no_wrap=n_shown > _N_LEAST)
    for row in shown.rows:
        table.add_row(*map(Text, row[:n_shown]))
    Console(width=width).print(table)
    if n_shown < len(shown.headings):
        console.print(f"A wider terminal, and the report, also show: {', '.join(shown.headings[n_shown:])}.")


_N_LEAST = 4

"""Columns that are shown however narrow the terminal is, wrapped if need be."""


def _n_fitting(shown: TerminalTable, width: int) -> int:
    """How many columns, from the left, fit into a terminal without wrapping."""
    used = 0
    for index, heading in enumerate(shown.headings):
        used += max(len(text) for text in (heading, *(row[index] for row in shown.rows))) + 2
        if used - 2 > width and index >= _N_LEAST:
            return index
    return len(shown.headings)
