"""Tables in the terminal."""

from __future__ import annotations

from analysis.tables import TerminalTable


def show(shown: TerminalTable, *, n_left: int = 2) -> None:
    """Prints a table, as wide as the terminal; where there is none, wide enough.

    Args:
        shown: The table.
        n_left: Columns from the left that hold words.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(shown.headings):
        table.add_column(Text(heading), justify="left" if index < n_left else "right")
    for row in shown.rows:
        table.add_row(*map(Text, row))
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)
