"""Read YAML that a user wrote: safely, and as strictly as a study file needs it."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

_MAX_DEPTH = 32

_MAX_NODES = 100_000


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not YAML, or no file of plain keys and values; with line, column and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error}); save it as UTF-8") from error
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Read a text of YAML, as `read_yaml` does.

    Raises:
        ValueError: It is not YAML, or not of plain keys and values; with line, column and remedy.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 -- a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        found = ", ".join(filter(None, (error.context, error.problem)))
        by_form = isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
        hint = (
            "; look at this line and the one before: a bracket may not be closed, or the space after a colon is "
            "missing; indent with spaces only"
            if by_form
            else ""
        )
        raise ValueError(f"{place}{found}{hint}") from error
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(str(error)) from error


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML whose keys are texts given once, and that is neither deep nor grows by its aliases."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._n_nodes = 0
        self._sizes: dict[int, int] = {}  # nodes of each finished node, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        before = self._n_nodes
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _refused("it is nested too deeply", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _refused("a value must not hold itself", mark)
        self._n_nodes += self._sizes[id(node)] if is_alias else 1
        if self._n_nodes > _MAX_NODES:
            raise _refused(f"it must have at most {_MAX_NODES:,} values", mark)
        self._sizes.setdefault(id(node), self._n_nodes - before)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                what = f"`{key}`" if isinstance(key, Hashable) else "a list or a mapping"
                raise _refused(f"a key must be a text, got {what}; put it in quotes", key_node.start_mark)
            if key in seen:
                raise _refused(f"the key `{key}` is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()
        except yaml.YAMLError:
            raise
        except (
            ValueError,
            OverflowError,
            KeyError,
            AttributeError,
        ) as error:  # a date or number that Python does not have
            raise _refused(f"this value cannot be read ({error}); put it in quotes", node.start_mark) from error
        if isinstance(value, str) and any(char < " " and char not in "\t\n" for char in value):
            raise _refused("a text must not hold control characters", node.start_mark)
        return value


def _refused(problem: str, mark: yaml.Mark) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
