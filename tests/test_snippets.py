"""Every snippet of README.md and docs/ runs as printed, or says why not and is checked as far as it goes."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "training"))
sys.path.insert(0, str(Path(__file__).parent / "integrations"))

from otreg.cli.application import app
from snippets import scenes
from snippets.markdown import SHELL, Block, blocks, pages
from snippets.run import compare, run_page
from snippets.shelf import Shelf

ROOT = Path(__file__).parents[1]
PAGES = {name: blocks(name, text) for name, text in pages(ROOT).items()}
ALL = [block for found in PAGES.values() for block in found]
RUN = [name for name, found in PAGES.items() if any(b.kind in ("python", "shell") for b in found)]
MOST_MARKED = 34
"""Commands and blocks of Python that are not run, at most.

They are forms of commands, and what takes minutes, needs the network or a token of the Hub, or serves until
it is stopped.
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # fewer cores than its workers
@pytest.mark.parametrize("page", RUN)
def test_the_snippets_of_a_page_run(
    page: str, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    scene = scenes.build(page, tmp_path, shelf)
    run_page(PAGES[page], scene)
    monkeypatch.chdir(tmp_path)
    if page in CHECKS:
        CHECKS[page](scene.names, tmp_path)


def readme_says(names: dict[str, Any], folder: Path) -> None:
    assert names["out"].loss.shape == (2,)
    assert names["out"].plan.shape[:2] == (2, 9)
    assert names["moved"].result.converged.all()
    assert names["x"].grad is not None
    assert names["handle"].terms["otreg"] > 0
    assert "forward" not in vars(names["handle"].port.model)  # the model is as it was
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def model_says(names: dict[str, Any], folder: Path) -> None:
    """It reloads to difference 0, and comes with a card."""
    again = names["AutoModelForMultimodalLM"].from_pretrained(folder / "out")
    kept = {name: tensor.clone() for name, tensor in names["model"].state_dict().items()}
    assert all(torch.equal(tensor, kept[name]) for name, tensor in again.state_dict().items())
    assert (folder / "out" / "README.md").is_file()


def data_says(names: dict[str, Any], folder: Path) -> None:
    from otreg.data import read_manifest

    assert read_manifest(folder / "short.jsonl") == names["utterances"]  # reads back equal
    assert "encoder_hidden_states" in names["dataset"][0]
    assert next(iter(names["loader"]))["input_ids"].shape[0] == 8
    assert [row.text for row in names["stream"]] == [row.text for row in names["utterances"]]


def attach_says(names: dict[str, Any], folder: Path) -> None:
    names["handle"].detach()
    assert any(p.grad is not None and p.grad.any() for p in names["model"].parameters())


def prepare_says(names: dict[str, Any], folder: Path) -> None:
    assert set(names["made"]["counts"]) >= {"rows", "made", "kept"}
    chosen = (folder / "chosen.jsonl").read_text().splitlines()
    assert len(chosen) == 1000
    assert [row["id"] for row in prepared_talks(folder)] == ["talk#1", "talk#2"]
    assert {"cluster", "misalignment", "share", "probability"} <= set(
        json.loads(chosen[0])["custom"]["select"]
    )


def prepared_talks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "talks.split.jsonl").read_text().splitlines()]


def hub_says(names: dict[str, Any], folder: Path) -> None:
    for exported in ("digits", "me/digits"):
        assert "license: apache-2.0" in (folder / exported / "README.md").read_text()
    assert names["ids"].shape[1] > names["batch"]["input_ids"].shape[1]


def serving_says(names: dict[str, Any], folder: Path) -> None:
    assert names["event"].type == "transcript.text.done"


def transcription_says(names: dict[str, Any], folder: Path) -> None:
    assert (folder / "talk.srt").is_file()
    written = [json.loads(path.read_text()) for path in (folder / "transcripts").iterdir()]
    assert {row["file"] for row in written} == {"speech.flac", "talk.flac"}
    assert len(names["transcript"].segments) == 2  # 22 s, in chunks of up to 20 s


def family_says(names: dict[str, Any], folder: Path) -> None:
    assert names["handle"].terms["otreg"] > 0
    assert any(p.grad is not None and p.grad.any() for p in names["model"].parameters())
    names["handle"].detach()


def evaluation_says(names: dict[str, Any], folder: Path) -> None:
    written = json.loads((folder / "results.json").read_text())
    assert {row["arm"] for row in written["rows"]} == {"base", "otreg"}
    assert written["base_arm"] == "base"


def refused_says(names: dict[str, Any], folder: Path) -> None:
    assert names["pair"].token_ids.tolist() == names["ids"].tolist()
    names["loss"].backward()


def own_objective_says(names: dict[str, Any], folder: Path) -> None:
    lines = (folder / "runs" / "means" / "log.jsonl").read_text().splitlines()
    logged = {name for line in lines for name in json.loads(line)}
    assert {"means", "means/distance", "inner"} <= logged


def quickstart_says(names: dict[str, Any], folder: Path) -> None:
    logs = {run: (folder / "runs" / run / "log.jsonl").read_text() for run in ("base", "otreg")}
    assert '"otreg"' in logs["otreg"]
    assert '"otreg"' not in logs["base"]


CHECKS = {
    "README.md": readme_says,
    "docs/model.md": model_says,
    "docs/data.md": data_says,
    "docs/attach.md": attach_says,
    "docs/hub.md": hub_says,
    "docs/serving.md": serving_says,
    "docs/transcription.md": transcription_says,
    "docs/prepare.md": prepare_says,
    "docs/evaluation.md": evaluation_says,
    "docs/quickstart.md": quickstart_says,
    "docs/recipes/own-objective.md": own_objective_says,
    "docs/families/refused.md": refused_says,
    **{f"docs/families/{name}.md": family_says for name in scenes.CHECKPOINTS},
}
"""What the text beside the snippets states of them, where they do not print it."""


def left_out() -> list[tuple[Block, list[str], str]]:
    """Commands and blocks of Python that a mark is about: the block, the command's words, the reason."""
    found = []
    for block in ALL:
        reason = "; ".join(mark.reason for mark in block.marks)
        if block.kind == "python" and block.is_left_out:
            found.append((block, [], reason))
        if block.kind == "shell":
            found += [(block, w, reason) for w in block.commands() if block.is_marked(w)]
    return found


def test_few_snippets_are_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    marked = left_out()
    with capsys.disabled():
        for block, words, reason in marked:
            print(f"\nnot run: {block.where}: {' '.join(words) or block.kind} ({reason})", end="")
    assert len(marked) <= MOST_MARKED
    assert all(reason for _, _, reason in marked)


def test_every_mark_is_about_something() -> None:
    for block in ALL:
        for mark in block.marks:
            assert block.kind in ("python", "shell"), block.where
            lines = [" ".join(words) for words in block.commands()] if mark.only else []
            for begin in mark.only:
                assert any(line.startswith(begin) for line in lines), f"{block.where}: {begin}"


@pytest.mark.parametrize("index", range(len(left_out())))
def test_what_is_not_run_could_be(index: int) -> None:
    block, words, _ = left_out()[index]
    if block.kind == "python":
        check_imports(block)
    elif words[0] == "otreg":
        check_options(words[1:], block.where)
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), f"{block.where}: no {words[1]}"
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {w for w in words[1:] if "=" not in w} <= set(targets), block.where
    else:
        assert words[0] in SHELL, block.where


def check_imports(block: Block) -> None:
    """A block that parses, and imports names that are there."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otreg"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block.where}: {node.module}.{alias.name}"


def check_options(words: list[str], where: str) -> None:
    """A command of otreg that parses; of a form (`[--out DIR]`, `IN…`, `…`) the names of its options.

    Recipes and experiments that it names are read, with its changes to them.
    """
    from typer.main import get_command

    command: Any = get_command(app)
    name = "otreg"
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"{where}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    if any(word.startswith("[") or word.endswith("…") for word in words):
        given = {word.strip("[]") for word in words if word.strip("[").startswith("--")}
        assert given <= known, f"{where}: {given - known}"
        return
    context = command.make_context(name, list(words))
    if name == "train":
        from otreg.training import load_config

        changes = context.params["overrides"] or []
        if "." not in context.params["config"]:
            load_config(context.params["config"], changes)
    if name == "demo" and "." not in context.params["name"]:
        from otreg.experiment.reading import load_experiment

        load_experiment(context.params["name"])


DATA = [b for b in ALL if b.kind in ("yaml", "json") or b.title.endswith((".yaml", ".jsonl"))]


@pytest.mark.parametrize("block", DATA, ids=lambda block: block.where)
def test_configurations_and_manifests_are_read(block: Block, tmp_path: Path) -> None:
    from otreg.data import read_manifest
    from otreg.data.sources import check_source

    if block.kind == "yaml" and block.code.startswith("{"):
        for line in block.code.splitlines():
            check_source(yaml.safe_load(line))
        return
    if block.code.startswith("{"):
        for name in re.findall(r'"audio": "([^"]+)"', block.code):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "manifest.jsonl").write_text(block.code, encoding="utf-8")
        assert len(read_manifest(tmp_path / "manifest.jsonl")) == block.code.count("\n")
        return
    content = yaml.safe_load(block.code)
    assert isinstance(content, dict)
    for sources in (content.get("data") or {}).values():
        for source in sources if isinstance(sources, list) else [sources]:
            if isinstance(source, dict) and "type" in source:
                check_source(source)
    if block.page == "docs/training.md" and "inherits" in content:
        from otreg.training import load_config

        (tmp_path / "recipe.yaml").write_text(block.code, encoding="utf-8")
        assert load_config(tmp_path / "recipe.yaml").seed == content["seed"]


def test_no_snippet_passes_for_plain_text() -> None:
    """A block that is neither fenced by its language nor recognised would be checked by nobody."""
    code = re.compile(rf"^\s*({'|'.join(SHELL)}|import|from \w+ import)\b", re.MULTILINE)
    for block in ALL:
        assert block.kind in ("python", "shell", "yaml", "json", "file", "output", "text"), (
            block.where
        )
        if block.kind == "text":
            assert not code.search(block.code), block.where


def test_a_wrong_snippet_is_noticed(shelf: Shelf, tmp_path: Path) -> None:
    wrong = {
        "```python\n1 / 0\n```\n": ZeroDivisionError,
        "```sh\notreg train no.yaml --out runs/x\n```\n": AssertionError,
        "```sh\nls\n```\n": AssertionError,
        '```python\nprint(1)\n```\n\n```text title="output"\n2\n```\n': AssertionError,
    }
    for number, (text, error) in enumerate(wrong.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(error):
            run_page(blocks("page.md", text), scenes.build("page.md", folder, shelf))


def test_marks_and_outputs_are_read() -> None:
    text = (
        "<!-- not run (git, otreg train): needs\nthe network -->\n    git clone x && cd x   # a\n"
        "    otreg evaluate \\\n        run\n\n```python\nx = 1\n```\n"
    )
    shell, python = blocks("page.md", text)
    assert [shell.kind, python.kind] == ["shell", "python"]
    assert shell.commands() == [
        ["git", "clone", "x", "&&", "cd", "x"],
        ["otreg", "evaluate", "run"],
    ]
    assert [shell.is_marked(words) for words in shell.commands()] == [True, False]
    assert shell.marks[0].reason == "needs the network"
    assert not python.marks
    with pytest.raises(ValueError, match="a mark stands above what is no block"):
        blocks("page.md", "<!-- not run: why -->\ntext\n")
    with pytest.raises(ValueError, match="expected <!-- not run: REASON -->"):
        blocks("page.md", "<!-- not run -->\n    otreg demo\n")
    output = Block("page.md", 1, "output", "a … c\n")
    compare(output, "a b c\n")
    with pytest.raises(AssertionError, match="the page says"):
        compare(output, "a b\n")


def test_options_that_are_gone_are_noticed() -> None:
    check_options(["demo", "ai-sta", "--seeds", "3"], "here")
    check_options(["demo", "[NAME]", "[--out", "DIR]"], "here")
    check_options(["train", "digits", "stages.align.steps=5", "--out", "x"], "here")
    with pytest.raises(Exception, match="No such option"):
        check_options(["demo", "--sedes", "3"], "here")
    with pytest.raises(AssertionError, match="--ouch"):
        check_options(["demo", "[--ouch", "DIR]"], "here")
    with pytest.raises(AssertionError, match="no command"):
        check_options(["trian"], "here")
    with pytest.raises(ValueError, match="stepz"):
        check_options(["train", "digits", "stages.align.stepz=5", "--out", "x"], "here")
