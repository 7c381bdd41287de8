"""The command that a result can be made with again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from otreg.names import nearest


def command_line(name: str, options: Mapping[str, Any]) -> str:
    """One line for a shell that runs a command of otreg with these options.

    Options at their defaults are left out; what needs quoting is quoted. What the line says is read
    from the command itself, so an option that is added there is not forgotten here.

    Args:
        name: the command, such as "evaluate" or "prepare words".
        options: parameter -> value, as `typer.Context.params` has them.

    Raises:
        ValueError: no such command, or an option that it does not have.

    Example:
        >>> from pathlib import Path
        >>> command_line("demo", {"out": Path("my demo"), "seeds": 1, "arms": None})
        "otreg demo --out 'my demo'"
    """
    from typer.main import get_command

    from otreg.cli.application import app  # with its commands: the package registers them

    command: Any = get_command(app)
    for part in name.split():
        known = getattr(command, "commands", {})
        if part not in known:
            raise ValueError(f"no command {part!r} in {name!r}; {nearest(part, known)}")
        command = known[part]
    parameters = {parameter.name: parameter for parameter in command.params}
    for option in options:
        if option not in parameters:
            raise ValueError(
                f"otreg {name} has no option {option!r}; {nearest(option, parameters)}"
            )
    positional: list[str] = []
    named: list[str] = []
    for option, parameter in parameters.items():
        value = options.get(option)
        if value is None or value == parameter.default or value in ([], ()):
            continue
        values = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        if parameter.param_type_name == "argument":
            positional += values
        elif value is True:
            named.append(parameter.opts[0])
        elif value is False:
            named.append(parameter.secondary_opts[0])
        else:
            named += [word for item in values for word in (parameter.opts[0], item)]
    return shlex.join(["otreg", *name.split(), *positional, *named])
