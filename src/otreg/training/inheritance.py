"""`inherits:`: a configuration that starts from another and says what it changes.

    inherits: miniature          # a shipped recipe by name, or a file, relative to this one
    stages:
      align: {steps: 500}        # by its name, an item of the list that is inherited

Mappings merge, key by key and at every depth. Everything else is replaced: a scalar, a list, and what
`null` is given for. A list of named items (the stages) that is inherited can be changed item by item:
give a mapping from names to changes in its place; a list in its place replaces it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otreg.names import nearest
from otreg.training.yaml_config import ConfigError, parse_yaml

__all__ = ["INHERITS", "RECIPES", "find_configuration", "merge", "read_configuration"]

INHERITS = "inherits"
RECIPES = Path(__file__).parents[1] / "recipes"
"""The folder of the recipes that are shipped in the package."""


def find_configuration(name: str | Path, shipped: Path, *, folder: Path | None = None) -> Path:
    """The file that a path, or the name of a shipped configuration, stands for.

    A path wins over a name where the file exists.

    Args:
        name: a path, or a name such as `digits`.
        shipped: the folder of the shipped configurations.
        folder: what a relative path starts from; None = the current directory.

    Raises:
        ConfigError: there is neither such a file nor such a name; the shipped names are listed.
    """
    path = Path(name) if folder is None else folder / name
    if path.is_file():
        return path
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    if str(name) in names:
        return shipped / f"{name}.yaml"
    if path.is_dir():
        raise ConfigError(f"cannot read the configuration {str(name)!r}: it is a folder")
    hint = nearest(Path(name).stem, names)
    listed = f"shipped by name: {', '.join(names)}"
    remedy = f"{hint} ({listed})" if hint.startswith("did you mean") else listed
    raise ConfigError(f"no such configuration file: {str(name)!r}; {remedy}")


def read_configuration(
    path: Path, shipped: Path, *, sections: Mapping[str, Path] | None = None
) -> Any:
    """Read a YAML file and everything that it inherits, merged.

    Args:
        path: the file.
        shipped: the folder in which `inherits: NAME` looks.
        sections: top-level keys whose mapping may have an `inherits` of its own, each with the folder
            of its shipped configurations.

    Returns:
        Plain data without `inherits`; not a mapping only where the file holds none.

    Raises:
        ConfigError: a file is missing or not YAML, or inherits itself.
    """
    return _read(path, shipped, sections or {}, ())


def _read(path: Path, shipped: Path, sections: Mapping[str, Path], chain: tuple[Path, ...]) -> Any:
    if path.resolve() in [former.resolve() for former in chain]:
        names = " inherits ".join(str(file) for file in (*chain, path))
        raise ConfigError(f"{names}: a circle; let one of them inherit nothing")
    chain = (*chain, path)
    data = parse_yaml(_text(path), source=str(path))
    if not isinstance(data, Mapping):
        return data
    data = dict(data)
    for key, folder in sections.items():
        if isinstance(data.get(key), Mapping):
            data[key] = _inherit(data[key], path, folder, {}, chain)
    return _inherit(data, path, shipped, sections, chain)


def _inherit(
    data: Mapping[str, Any],
    path: Path,
    shipped: Path,
    sections: Mapping[str, Path],
    chain: tuple[Path, ...],
) -> dict[str, Any]:
    """`data`, which stands in the file `path`, merged onto what it inherits."""
    changes = {key: value for key, value in data.items() if key != INHERITS}
    if INHERITS not in data:
        return changes
    name = data[INHERITS]
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{path}: inherits: expected the name of a shipped configuration or a path, "
            f"received {name!r}"
        )
    try:
        parent = find_configuration(name, shipped, folder=path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: inherits: {error}") from None
    inherited = _read(parent, shipped, sections, chain)
    if not isinstance(inherited, Mapping):
        raise ConfigError(
            f"{path}: inherits {str(parent)!r}, which holds no mapping but "
            f"{type(inherited).__name__}"
        )
    try:
        merged: dict[str, Any] = merge(inherited, changes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return merged


def merge(inherited: Any, changes: Any, where: str = "") -> Any:
    """Plain data with changes; neither argument is changed.

    Args:
        inherited: plain data as `parse_yaml` returns it.
        changes: a mapping is merged onto a mapping, or onto a list of named items by their names;
            anything else replaces what is inherited.
        where: the place of both in the document, for errors.

    Raises:
        ConfigError: the list that is inherited has no item of that name.
    """
    if not isinstance(changes, Mapping):
        return changes
    if isinstance(inherited, Mapping):
        merged = dict(inherited)
        for key, value in changes.items():
            place = f"{where}.{key}" if where else str(key)
            merged[key] = merge(merged.get(key), value, place)
        return merged
    names = _item_names(inherited)
    if names is None:
        return {key: merge(None, value, where) for key, value in changes.items()}
    items = list(inherited)
    for name, value in changes.items():
        if name not in names:
            raise ConfigError(
                f"{where}: no item {name!r} in the list that is inherited; {nearest(name, names)} "
                "(to add one, write the whole list)"
            )
        position = names.index(name)
        items[position] = merge(items[position], value, f"{where}.{name}")
    return items


def _item_names(data: Any) -> list[str] | None:
    """The names of a list's items; None for anything that is not a list of named items."""
    if not isinstance(data, list) or not data:
        return None
    names = [item.get("name") if isinstance(item, Mapping) else None for item in data]
    return [str(name) for name in names] if all(name is not None for name in names) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {error}") from None
