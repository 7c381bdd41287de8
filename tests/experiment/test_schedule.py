"""What is done again and what is kept: keys by content, marks of what is whole."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from toy_steps import CALLS, HERE, WARNING, WORKER

from otreg.experiment import schedule as schedule_module
from otreg.experiment.graph import Graph, Ref
from otreg.experiment.schedule import MARK, Schedule

Told = list[tuple[str, bool]]


def run(root: Path, graph: Graph, told: Told | None = None) -> dict[str, str]:
    """Run a graph; returns what each step wrote, by its title."""
    made = Schedule(
        root,
        2,
        lambda title, seconds, is_kept: None if told is None else told.append((title, is_kept)),
    ).run(graph)
    return {graph.title(step): made[step]["out"].path.read_text() for step in graph.steps}


def chain(kind=HERE, **first: object) -> Graph:
    """Steps a -> b -> c, and d, which needs nothing; `first` are further settings of a."""
    graph = Graph()
    before: dict[str, Ref] = {}
    for name in "abc":
        settings = {"text": name, **(first if name == "a" else {})}
        step = graph.add(kind, name, settings, before, title=name)
        before = {"before": Ref(step, "out")}
    graph.add(kind, "d", {"text": "d"}, title="d")
    return graph


def calls(root: Path) -> str:
    """The steps that were done since the last call of this function, in order."""
    path = root / CALLS
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return "".join(sorted(text.split()))


def test_steps_get_what_they_need_and_are_done_once(tmp_path: Path) -> None:
    told: Told = []
    assert run(tmp_path, chain(), told) == {"a": "a", "b": "ba", "c": "cba", "d": "d"}
    assert told == [("a", False), ("b", False), ("c", False), ("d", False)]
    assert calls(tmp_path) == "abcd"
    told.clear()
    assert run(tmp_path, chain(), told) == {"a": "a", "b": "ba", "c": "cba", "d": "d"}
    assert told == [("a", True), ("b", True), ("c", True), ("d", True)]
    assert calls(tmp_path) == ""


def test_other_settings_redo_what_depends_on_them(tmp_path: Path) -> None:
    run(tmp_path, chain())
    calls(tmp_path)
    assert run(tmp_path, chain(writes="A"))["c"] == "cbA"
    assert calls(tmp_path) == "abc"
    assert run(tmp_path, chain())["c"] == "cba"  # both are kept side by side
    assert calls(tmp_path) == ""


def test_settings_that_change_no_content_redo_nothing_further_on(tmp_path: Path) -> None:
    run(tmp_path, chain())
    calls(tmp_path)
    run(tmp_path, chain(note="without effect"))
    assert calls(tmp_path) == "a"


def test_a_result_changed_from_outside_is_made_again(tmp_path: Path) -> None:
    run(tmp_path, chain())
    calls(tmp_path)
    (out,) = (tmp_path / "here").glob("b-*/out.txt")
    out.write_text("tampered")
    assert run(tmp_path, chain())["c"] == "cba"
    assert calls(tmp_path) == "b"


def test_what_was_not_finished_is_never_taken_for_finished(tmp_path: Path) -> None:
    run(tmp_path, chain())
    calls(tmp_path)
    (mark,) = (tmp_path / "here").glob(f"b-*/{MARK}")
    mark.unlink()  # as a kill just before the end leaves it
    (mark.parent / "out.txt").write_text("half")
    assert run(tmp_path, chain())["c"] == "cba"
    assert calls(tmp_path) == "b"
    (mark,) = (tmp_path / "here").glob(f"b-*/{MARK}")
    mark.write_text(mark.read_text()[:20])  # torn
    assert run(tmp_path, chain())["c"] == "cba"
    assert calls(tmp_path) == "b"


def test_other_libraries_or_another_source_redo_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, chain())
    calls(tmp_path)
    monkeypatch.setattr(schedule_module, "libraries", lambda: {"torch": "99"})
    run(tmp_path, chain(writes="A"))
    assert calls(tmp_path) == "abcd"
    monkeypatch.setattr(schedule_module, "source_digest", lambda source: f"new {source}")
    run(tmp_path, chain(writes="A"))
    assert calls(tmp_path) == "abcd"


def test_a_folder_that_was_moved_keeps_everything(tmp_path: Path) -> None:
    run(tmp_path / "one", chain())
    calls(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    run(tmp_path / "two", chain())
    assert calls(tmp_path / "two") == ""


def test_the_mark_says_how_long_a_step_took_and_what_it_made(tmp_path: Path) -> None:
    run(tmp_path, chain())
    (mark,) = (tmp_path / "here").glob(f"a-*/{MARK}")
    record = json.loads(mark.read_text())
    assert record["seconds"] >= 0
    assert record["parts"]["out"][0] == "out.txt"


def test_a_failure_keeps_what_was_finished(tmp_path: Path) -> None:
    graph = chain()
    broken = graph.add(HERE, "e", {"text": "e", "fail": True}, title="e")
    with pytest.raises(ValueError, match="e fails"):
        run(tmp_path, graph)
    assert calls(tmp_path) == "abcde"
    del graph.steps[broken]
    run(tmp_path, graph)
    assert calls(tmp_path) == ""


def test_workers_do_the_steps_and_a_warning_of_several_is_shown_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = chain(WORKER)
    for name in "xyz":
        graph.add(WARNING, name, {"text": name}, title=name)
    graph.add(WORKER, "e", {"text": "e", "fail": True}, title="e")
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="e fails"):
        run(tmp_path, graph)
    del graph.steps[list(graph.steps)[-1]]
    assert run(tmp_path, graph)["c"] == "cba"
    done = calls(tmp_path)
    assert all(done.count(name) == 1 for name in "abcdexyz")
    said = [record.getMessage() for record in caplog.records]
    assert said.count("many losses are 0") == 1
    assert len([text for text in said if "an old habit" in text]) == 1
    assert "old habit" not in capfd.readouterr().err


def test_a_worker_that_dies_is_named_and_its_step_is_done_again(tmp_path: Path) -> None:
    graph = Graph()
    graph.add(WORKER, "a", {"text": "a", "die": True}, title="a")
    with pytest.raises(ChildProcessError, match=r"ended abruptly.*same command goes on"):
        run(tmp_path, graph)
    (half,) = (tmp_path / "worker").glob("a-*/half")
    assert not (half.parent / MARK).exists()
