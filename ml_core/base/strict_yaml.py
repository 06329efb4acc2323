"""YAML of people and of other programs, read within bounds: no key twice, no depth without end, nothing that grows."""

from __future__ import annotations

from typing import Any

import yaml

try:  # the wheels of PyYAML have the parser in C: ten times as fast
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

__all__ = ["NotYaml", "parse_yaml"]

MOST_BYTES = 1 << 23
MOST_DEPTH = 40
MOST_NODES = 500_000
"""As many as a column table of 40,000 columns has. Aliases count as what they stand for: a short text cannot become a
large document."""


class NotYaml(ValueError):
    """Raised for what is not read; the text says why and in which line, and quotes nothing but a repeated key."""


class _Loader(_SafeLoader):
    """A safe loader that refuses a mapping with a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        """The mapping, each of whose keys occurs once."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise NotYaml(f"has the key {str(key)[:60]!r} twice (line {_line(key_node)})")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def parse_yaml(raw: bytes) -> Any:
    """The content of a YAML file.

    Raises
    ------
    NotYaml
        It is not UTF-8 or no YAML, has a key twice, an alias within what it stands for, a value that cannot be (a
        number of thousands of digits, a 32nd of May), or is larger or deeper than such a file ever is.
    """
    if len(raw) > MOST_BYTES:
        raise NotYaml(f"is larger than {MOST_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
        _check_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except NotYaml:
        raise
    except UnicodeDecodeError as error:
        raise NotYaml("is not UTF-8 text") from error
    except RecursionError as error:
        raise NotYaml(f"is nested deeper than {MOST_DEPTH} levels") from error
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise NotYaml(f"is not YAML{where}") from error
    except yaml.YAMLError as error:
        raise NotYaml("is not YAML") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise NotYaml("is not YAML: a value is none of its kind") from error


def _check_events(text: str) -> None:
    """Depth and number of values as they are written, before anything is built of them."""
    nodes = depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if nodes > MOST_NODES:
            raise NotYaml(f"holds more than {MOST_NODES} values")
        if depth >= MOST_DEPTH:
            raise NotYaml(f"is nested deeper than {MOST_DEPTH} levels")


def _check_size(root: yaml.Node) -> None:
    """Depth and number of nodes, aliases written out; each node is looked at once."""
    sizes: dict[int, tuple[int, int]] = {}  # nodes and depth below a node, itself included
    _measure(root, sizes, frozenset())


def _measure(node: yaml.Node, sizes: dict[int, tuple[int, int]], above: frozenset[int]) -> tuple[int, int]:
    if id(node) in above:
        raise NotYaml(f"has an alias within what it stands for (line {_line(node)})")
    if id(node) not in sizes:
        nodes, depth = 1, 0
        for child in _children(node):
            more, deeper = _measure(child, sizes, above | {id(node)})
            nodes, depth = nodes + more, max(depth, deeper)
        if nodes > MOST_NODES:
            raise NotYaml(f"holds more than {MOST_NODES} values")
        if depth >= MOST_DEPTH:
            raise NotYaml(f"is nested deeper than {MOST_DEPTH} levels")
        sizes[id(node)] = nodes, depth + 1
    return sizes[id(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
