"""The application, its logging, and how errors leave it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import otreg


class _BareFlags:
    """Help in which a flag stands alone: typer 0.29 prints <bool> beside it, which takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
        return parameters


class _Group(_BareFlags, TyperGroup):
    pass


class _Command(_BareFlags, TyperCommand):
    pass


class _Application(typer.Typer):
    def command(self, *arguments: Any, **options: Any) -> Any:
        return super().command(*arguments, **({"cls": _Command} | options))


def command_group(**options: Any) -> typer.Typer:
    """A group of commands, such as otreg's own or `otreg prepare`; options as for typer.Typer."""
    return _Application(cls=_Group, no_args_is_help=True, **options)


app = command_group(
    name="otreg",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Train and compare speech language models with OTReg, the optimal-transport "
    "regularisation of speech-text alignment.",
    epilog="Example: otreg demo --out demo-out",
)

_MAX_LINE = 600


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"otreg {otreg.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log what libraries say, too.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    configure_logging(verbose=verbose)


def configure_logging(*, verbose: bool = False) -> None:
    """Send otreg's log to stderr; the only place that sets handlers.

    Args:
        verbose: also what transformers and others say below a warning, and their progress bars.
    """
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(
        console=Console(stderr=True), show_path=False, show_level=False, log_time_format="%X"
    )
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[handler],
        force=True,
    )
    logging.getLogger("otreg").setLevel(logging.INFO)


def quiet_transformers() -> None:
    """No bars for the weights that transformers loads and saves; ours say what takes time."""
    from transformers.utils import logging as transformers_logging

    if logging.getLogger().level > logging.INFO:
        transformers_logging.disable_progress_bar()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; None = the process's own.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 when interrupted, 1 for anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = app(args=arguments, prog_name="otreg", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the reader of our output has gone)
        return 1
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """One line for what a user can mend; a traceback for what only we can."""
    if isinstance(error, typer.Abort):
        return _fail("aborted", 130)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own
        return _usage(error)
    from otreg.data import AudioError

    if isinstance(error, AudioError | ValueError | OSError | ImportError):
        return _fail(str(error) or type(error).__name__, 2)
    if type(error).__name__ == "NonFiniteLossError":
        return _fail(str(error), 1)
    raise error


def _usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "otreg"
    message = error.format_message()
    if not message:  # no command given: the help was shown
        return int(error.exit_code)
    return _fail(f"{message.rstrip('.')} (see {command} --help)", 2)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    if len(line) > _MAX_LINE:
        line = line[: _MAX_LINE - 2] + " …"
    print(f"otreg: error: {line}", file=sys.stderr)
    return code
