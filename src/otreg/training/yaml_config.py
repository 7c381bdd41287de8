"""Read a configuration: YAML without surprises, dotted overrides, errors that name the key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from otreg.names import nearest

__all__ = [
    "ConfigError",
    "apply_overrides",
    "check_key",
    "check_switched_off",
    "describe_errors",
    "dump_yaml",
    "parse_yaml",
]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key and the remedy."""


class _Loader(yaml.SafeLoader):
    """Safe YAML whose scalars mean what they look like.

    PyYAML follows YAML 1.1, in which `2e-6` is a string, `no` (a language code) is False and `1:30`
    is 90. Here the only special scalars are `null` (also `~` and nothing), `true`, `false` and
    numbers. A key that stands twice in one mapping is an error instead of the last one winning.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # construct_mapping below refuses it: a list or mapping cannot be a key
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key!r} stands twice; keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes every string which this loader or a YAML 1.1 reader would misread."""


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", None),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    for _handler in (_Loader, _Dumper):
        _handler.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def parse_yaml(text: str, *, source: str = "configuration") -> Any:
    """Parse YAML safely; numbers such as `2e-6` are numbers, a repeated key is refused.

    Args:
        text: the YAML document.
        source: the name used in errors, usually the file.

    Returns:
        Plain Python data.

    Raises:
        ConfigError: not YAML, or a key stands twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{source}: not valid YAML: {problem}") from None


def dump_yaml(data: Any) -> str:
    """Write plain data as YAML that `parse_yaml` reads back to the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def check_key(name: str, known: Iterable[str], where: str) -> None:
    """Refuse a name outside `known`, offering the nearest.

    Raises:
        ConfigError: the name is unknown.
    """
    names = list(known)
    if name not in names:
        path = f"{where}.{name}" if where else name
        raise ConfigError(f"unknown key {path!r}: {nearest(name, names)}")


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply dotted `key=value` overrides to plain configuration data.

    `stages.1.objectives.otreg.weight=0` walks into the list `stages` by index; a list whose items
    have a `name` can also be walked by that name (`stages.align.steps=10`). The value is YAML:
    `null`, `[a, b]`, `2e-6`. A mapping on the way that does not exist is made; whether its key is
    known is checked with the whole.

    Args:
        data: plain data as `parse_yaml` returns it; it is not changed.
        overrides: strings `key=value`.

    Returns:
        A new mapping.

    Raises:
        ConfigError: no `=`, an empty key, an index outside its list, or a path through a scalar.
    """
    result = _copy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise ConfigError(
                f"override {override!r}: expected key=value, such as stages.0.learning_rate=2e-6"
            )
        value = parse_yaml(text, source=f"override {key!r}") if text.strip() else None
        node: Any = result
        for depth, part in enumerate(path[:-1]):
            where = ".".join(path[: depth + 1])
            if isinstance(node, dict):
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
            else:
                node = node[_list_index(node, part, where)]
            if not isinstance(node, (dict, list)):
                raise ConfigError(
                    f"override {key!r}: {where!r} is {node!r}, which holds no further keys"
                )
        if isinstance(node, dict):
            node[path[-1]] = value
        else:
            node[_list_index(node, path[-1], key)] = value
    return result


def check_switched_off(data: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse to give weight 0 to an objective that the stage never had: surely another was meant.

    Args:
        data: the configuration before the overrides.
        overrides: strings `key=value` that were applied to it.

    Raises:
        ConfigError: naming the objectives that the stage has.
    """
    for override in overrides:
        pattern = r"stages\.([^.]+)\.objectives\.([^.]+)\.weight=\s*[-+]?0*\.?0*\s*"
        match = re.fullmatch(pattern, override.strip())
        if match is None:
            continue
        stages = data.get("stages") or []
        stage = stages[_list_index(stages, match[1], override)]
        known = ["cross_entropy", *(stage.get("objectives") or {})]
        if match[2] not in known:
            raise ConfigError(
                f"override {override!r}: the stage has no objective {match[2]!r} to switch off; "
                f"{nearest(match[2], known)}"
            )


def _list_index(items: list[Any], part: str, where: str) -> int:
    if re.fullmatch(r"\d+", part):
        if int(part) < len(items):
            return int(part)
        raise ConfigError(
            f"override {where!r}: the list has {len(items)} items, numbered from 0; "
            f"{part} is none of them"
        )
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    known = [name for name in names if isinstance(name, str)]
    remedy = nearest(part, known) if known else f"give a number below {len(items)}"
    raise ConfigError(f"override {where!r}: no item {part!r} in the list; {remedy}")


def _copy(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _copy(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_copy(item) for item in node]
    return node


def describe_errors(
    error: pydantic.ValidationError, schema: type, source: str | Path = "configuration"
) -> ConfigError:
    """Turn pydantic's report into one line: each key, what was expected and what was received.

    Args:
        error: what pydantic raised.
        schema: the dataclass that was validated; gives the known names beside an unknown one.
        source: the file the data came from.
    """
    messages = []
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        path = ".".join(location) or "the document"
        if item["type"] == "unexpected_keyword_argument":
            known = _known_names(schema, item["loc"][:-1])
            messages.append(f"unknown key {path!r}: {nearest(location[-1], known)}")
        elif item["type"] in ("missing", "missing_argument"):
            messages.append(f"missing key {path!r}: give it a value")
        elif item["type"] == "value_error":
            messages.append(f"{path}: {item['ctx']['error']}")
        else:
            reason = item["msg"][0].lower() + item["msg"][1:]
            messages.append(f"{path}: {reason}, received {item['input']!r}")
    return ConfigError(f"{source}: " + "; ".join(messages))


def _known_names(schema: type, location: Sequence[int | str]) -> list[str]:
    """The field names of the dataclass found by walking `location` from `schema`."""
    import typing

    node: Any = schema
    for part in location:
        if isinstance(part, int):
            node = _dataclass_in(typing.get_args(node))
            continue
        fields = getattr(node, "__dataclass_fields__", None)
        if fields is None:
            node = _dataclass_in(typing.get_args(node))
        elif part in fields:
            hint = typing.get_type_hints(node)[part]
            node = hint if typing.get_origin(hint) in (list, dict) else _dataclass_in([hint])
    return list(getattr(node, "__dataclass_fields__", ()))


def _dataclass_in(hints: Iterable[Any]) -> Any:
    """The first dataclass among the hints or, one level down, among the members of a union."""
    import typing

    for hint in hints:
        for candidate in (hint, *typing.get_args(hint)):
            if hasattr(candidate, "__dataclass_fields__"):
                return candidate
    return None
