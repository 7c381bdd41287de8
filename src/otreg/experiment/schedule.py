"""Run the steps of a graph, several at a time, and take what earlier calls finished.

A step's result is known by its key: its settings, the content of its inputs, the libraries and the
source that decide it. `made.json` in the step's folder says that it is whole; it is written last, so
what a killed call left is never taken for finished.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from otreg.experiment.graph import Artifact, Call, Graph, Step
from otreg.experiment.keys import Digests, digest, libraries, own_source, source_digest
from otreg.experiment.workers import worker_pool

__all__ = ["Parts", "Schedule"]

MARK = "made.json"
_ENVIRONMENT = "environment"
Parts = dict[str, Artifact]


class Schedule:
    """Runs graphs whose results lie under one folder.

    Args:
        root: the folder.
        num_processes: steps that run side by side, in a process of one thread each.
        done: told of each finished step: its title, how long it took, and whether an earlier call
            finished it.
    """

    def __init__(
        self, root: Path, num_processes: int, done: Callable[[str, float, bool], None]
    ) -> None:
        self.root = root
        self.num_processes = num_processes
        self.done = done
        self.digests = Digests(root / "digests.json")

    def run(self, graph: Graph) -> dict[str, Parts]:
        """Run all steps that do not stand yet.

        Returns:
            What each step made, by its identity and the names of the parts.

        Raises:
            ChildProcessError: a worker process died.
            Exception: what a step raised. Steps that were running then are finished first.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with worker_pool(self.num_processes) as pool:
                return _Run(self, graph, pool).all_steps()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process ended abruptly, for instance for lack of memory; the same command "
                "goes on from what is finished"
            ) from error
        finally:
            self.digests.save()


_Done = tuple[Mapping[str, Path], float]  # what a step made, and its seconds


class _Run:
    """One pass over a graph."""

    def __init__(self, schedule: Schedule, graph: Graph, pool: ProcessPoolExecutor) -> None:
        self.schedule = schedule
        self.graph = graph
        self.pool = pool
        self.made: dict[str, Parts] = {}
        self.waiting = list(graph.steps)
        self.running: dict[Future[_Done], tuple[str, str, Call]] = {}

    def all_steps(self) -> dict[str, Parts]:
        self.start_what_can()
        while self.running:
            for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                identity, key, call = self.running.pop(future)
                try:
                    done = future.result()
                except Exception:
                    self.finish_running()
                    raise
                self.finish(identity, key, call, done)
            self.start_what_can()
        return self.made

    def start_what_can(self) -> None:
        """Start every step whose inputs stand; go on while that lets others start."""
        progress = True
        while progress:
            progress = False
            for identity in list(self.waiting):
                step = self.graph.steps[identity]
                if step.needs <= self.made.keys() and self.start(identity, step):
                    self.waiting.remove(identity)
                    progress = True

    def start(self, identity: str, step: Step) -> bool:
        """Take, do or submit a step; False where the same work is under way for another step."""
        inputs = {name: self.made[ref.step][ref.part] for name, ref in step.inputs.items()}
        key = _key(step, inputs)
        folder = _folder(self.schedule.root, step, key)
        if any(call.folder == folder for _, _, call in self.running.values()):
            return False
        standing = _standing(folder, key, step, self.schedule.digests)
        if standing is not None:
            self.made[identity], seconds = standing
            self.schedule.done(self.graph.title(identity), seconds, True)
            return True
        _clear(folder, step)
        paths = {name: artifact.path for name, artifact in inputs.items()}
        call = Call(step.settings, paths, folder, self.schedule.root)
        if step.kind.in_worker:
            future = self.pool.submit(_timed, step.kind.function, call)
            self.running[future] = (identity, key, call)
        else:
            self.finish(identity, key, call, _timed(step.kind.function, call))
        return True

    def finish(self, identity: str, key: str, call: Call, done: _Done) -> None:
        paths, seconds = done
        step = self.graph.steps[identity]
        parts = {
            name: Artifact(path, _content(path, key, step, self.schedule.digests))
            for name, path in paths.items()
        }
        record = {
            name: [os.path.relpath(part.path, call.folder), part.digest]
            for name, part in parts.items()
        }
        _write_json(call.folder / MARK, {"key": key, "seconds": seconds, "parts": record})
        self.made[identity] = parts
        self.schedule.done(self.graph.title(identity), seconds, False)

    def finish_running(self) -> None:
        """After a failure: start nothing more, but keep what the other workers still finish."""
        for future in list(self.running):
            if future.cancel():
                del self.running[future]
        for future in wait(self.running).done:
            identity, key, call = self.running.pop(future)
            if future.exception() is None:
                self.finish(identity, key, call, future.result())


def _timed(function: Callable[[Call], Mapping[str, Path]], call: Call) -> _Done:
    start = time.monotonic()
    return function(call), round(time.monotonic() - start, 1)


def _key(step: Step, inputs: Mapping[str, Artifact]) -> str:
    return digest(
        [
            step.kind.name,
            step.settings,
            {name: artifact.digest for name, artifact in inputs.items()},
            _environment(step),
            own_source(step.settings),
        ]
    )


def _environment(step: Step) -> list[Any]:
    return [libraries(), source_digest(step.kind.source)]


def _folder(root: Path, step: Step, key: str) -> Path:
    name = step.label if step.kind.is_shared_folder else f"{step.label}-{key}"
    return root / step.kind.name / name


def _standing(folder: Path, key: str, step: Step, digests: Digests) -> tuple[Parts, float] | None:
    """What a finished call left, and its seconds; None if it is not whole, or was changed since."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        if mark["key"] != key:
            return None
        parts = {}
        for name, (relative, known) in mark["parts"].items():
            path = Path(os.path.normpath(folder / relative))
            if not path.exists() or _content(path, key, step, digests) != known:
                return None
            parts[name] = Artifact(path, known)
        return parts, mark["seconds"]
    except (OSError, ValueError, KeyError):
        return None


def _content(path: Path, key: str, step: Step, digests: Digests) -> str:
    """What a part is known by."""
    if not step.kind.by_content:
        return key
    if step.kind.makes_manifests and path.suffix == ".jsonl":
        return digests.manifest(path)
    return digests.of(path)


def _clear(folder: Path, step: Step) -> None:
    """Remove what cannot be gone on from; a killed call's folder stays, the step knows best."""
    if step.kind.is_shared_folder:
        made_by = digest(_environment(step))
        note = folder / _ENVIRONMENT
        if not note.is_file() or note.read_text(encoding="utf-8") != made_by:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(made_by, encoding="utf-8")
    elif (folder / MARK).is_file():
        shutil.rmtree(folder)
    (folder / MARK).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def _write_json(path: Path, value: Any) -> None:
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(staged, path)
