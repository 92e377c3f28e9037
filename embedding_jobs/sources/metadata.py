"""Count the labels, groups and roles of a table's items, and find what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from embedding_jobs.sources.cells import Rows

_IF_EMPTY = {
    "label": "label these rows or remove them",
    "group": "give an item that belongs to no group one of its own, such as its id",
}


class MetadataCounts:
    """The labels, groups and roles of items, batch by batch.

    Args:
        columns: Names of the table's columns by key: label, and group and split if there are any.

    Attributes:
        counts: Number of items of each value by key; empty where there is no such column.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self.counts: dict[str, Counter[str]] = {key: Counter() for key in ("label", "group", "split")}
        self._empty = {key: Rows() for key in columns}
        self._torn = Rows()
        self._roles: dict[str, tuple[int, str]] = {}  # first row and role of each group

    def add(self, first_row: int, values: Mapping[str, Sequence[str | None]]) -> None:
        """Count the next items; `values` are by key, None where a cell is empty or holds no role."""
        for key, names in values.items():
            self.counts[key].update(name for name in names if name is not None)
            for row in [row for row, name in enumerate(names, first_row) if name is None]:
                self._empty[key].add(row)
        pairs = zip(values["group"], values["split"], strict=True) if {"group", "split"} <= values.keys() else ()
        for row, (group, role) in enumerate(pairs, first_row):
            if group is not None and role is not None:
                first, known = self._roles.setdefault(group, (row, role))
                if role != known:
                    self._torn.add(row, f"{group!r} is for {role}, in row {first + 1} for {known}")

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the items; cells without a role are left to `CellRules`."""
        for key, remedy in _IF_EMPTY.items():
            if key in self._columns and self._empty[key].count:
                yield f"`{self._columns[key]}` must not be null, NaN or empty: {self._empty[key]}; {remedy}"
        for key, plural in (("label", "classes"), ("group", "groups")):
            if key in self._columns and len(found := self.counts[key]) < 2:
                yield f"`{self._columns[key]}` must hold at least 2 {plural}, got {len(found)}: {sorted(found)}"
        if self._torn.count:
            yield (
                f"`{self._columns['split']}` must be the same for all items of a group, `{self._columns['group']}`: "
                f"{self._torn}; correct these cells, or leave out the column of groups"
            )
        if "split" in self._columns and not self._empty["split"].count:
            roles = self.counts["split"]
            got = ", ".join(f"{n} for {role}" for role, n in roles.items())
            if not (roles["train"] and roles["test"]):
                yield f"`{self._columns['split']}` must have items for train and for test, got {got}; correct the table"
