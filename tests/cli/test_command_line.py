"""The recorded command makes the same call again."""

import doctest
import shlex
from pathlib import Path

import pytest
import typer

import otreg.cli.command_line as module
from otreg.cli.application import app
from otreg.cli.command_line import command_line


def parsed(line):
    """What a command receives from a line, by parameter."""
    program, name, *arguments = shlex.split(line)
    assert program == "otreg"
    command = typer.main.get_command(app).commands[name]
    return command.make_context(name, arguments).params


EVALUATE = ["runs/my run", "--data", "a=x y.jsonl", "--data", "b.jsonl", "--in-domain", "a"]
EVALUATE += ["--arm", "it's", "--seed", "0", "--batch-size", "3", "--max-new-tokens", "9"]
EVALUATE += ["--out", "o.json", "--device", "cpu"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("evaluate", EVALUATE),
        ("evaluate", ["runs/a", "--data", "a.jsonl"]),
        ("demo", ["--out", "my demo", "--seeds", "3", "--arms", "base,otreg"]),
        ("demo", []),
        ("train", ["r.yaml", "seed=1", "a={b: [1, 2]}", "--out", "x", "--resume"]),
    ],
)
def test_the_line_reads_back_to_what_was_asked(name, arguments):
    params = parsed(shlex.join(["otreg", name, *arguments]))
    line = command_line(name, params)
    assert parsed(line) == params
    assert sorted(shlex.split(line)) == sorted(["otreg", name, *arguments])


def test_defaults_are_left_out_and_options_are_checked():
    params = {"run": Path("r"), "data": ["a.jsonl"], "batch_size": 16, "in_domain": [], "arm": None}
    assert command_line("evaluate", params) == "otreg evaluate r --data a.jsonl"
    with pytest.raises(ValueError, match="no option 'batchsize'; did you mean 'batch_size'"):
        command_line("evaluate", {"batchsize": 3})
    with pytest.raises(ValueError, match=r"no command 'evalute'.*did you mean 'evaluate'"):
        command_line("evalute", {})


def test_an_option_that_can_be_switched_off_says_so(monkeypatch):
    other = typer.Typer()

    @other.callback()
    def group() -> None:
        pass

    inner = typer.Typer()
    other.add_typer(inner, name="prepare")

    @inner.callback()
    def inner_group() -> None:
        pass

    @inner.command()
    def words(resume: bool = True, sizes: tuple[int, int] = (1, 2)) -> None:
        pass

    monkeypatch.setattr("otreg.cli.application.app", other)
    assert command_line("prepare words", {"resume": False}) == "otreg prepare words --no-resume"
    assert command_line("prepare words", {"resume": True}) == "otreg prepare words"


def test_the_example_in_the_docstring_holds():
    assert doctest.testmod(module).failed == 0
