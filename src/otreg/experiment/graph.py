"""Steps of an experiment and what they need from one another.

A step is data: a function by name, plain settings, and references to what other steps make. Steps
that are the same in all of these are one step, so arms that agree in their first stages share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otreg.experiment.keys import digest

__all__ = ["Artifact", "Call", "Graph", "Kind", "Ref", "Step"]


@dataclass(frozen=True)
class Ref:
    """A part of what a step makes.

    Attributes:
        step: the step's identity.
        part: such as "language_model".
    """

    step: str
    part: str


@dataclass(frozen=True)
class Artifact:
    """Something made: where it is, and what it is known by.

    Attributes:
        path: a file or a folder.
        digest: of its content.
    """

    path: Path
    digest: str


@dataclass(frozen=True)
class Call:
    """What a step's function is given.

    Attributes:
        settings: the step's settings.
        inputs: the paths of what it asked for, by its own names.
        folder: where to write; an earlier call that was killed may have left something there.
        root: the folder of the whole experiment's output.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, Path]
    folder: Path
    root: Path


@dataclass(frozen=True)
class Kind:
    """A kind of step.

    Attributes:
        name: such as "towers"; also the folder under which such steps write.
        function: does the work; returns paths by the names of the parts. Pickled by its name.
        source: folders and files of the package whose source decides the result.
        in_worker: whether a worker process runs it; the others use processes of their own.
        makes_manifests: whether the `.jsonl` files that it makes are manifests.
        by_content: whether what it makes is known by its content; otherwise by the step's key.
        is_shared_folder: whether all steps of this kind and label write into one folder, and the
            function itself keeps what still fits.
    """

    name: str
    function: Callable[[Call], Mapping[str, Path]]
    source: tuple[str, ...]
    in_worker: bool = True
    makes_manifests: bool = False
    by_content: bool = True
    is_shared_folder: bool = False


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        kind: what it does.
        label: a short name for its folder.
        settings: plain data; all that decides the result besides the inputs.
        inputs: what it needs, by the names that the kind's function knows.
    """

    kind: Kind
    label: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Ref]

    @property
    def identity(self) -> str:
        """Equal for steps that do the same to the same."""
        inputs = {name: [ref.step, ref.part] for name, ref in self.inputs.items()}
        return digest([self.kind.name, self.label, self.settings, inputs])

    @property
    def needs(self) -> set[str]:
        """The steps that this one waits for."""
        return {ref.step for ref in self.inputs.values()}


class Graph:
    """Steps, each after those that it needs; the same step is in it once.

    Attributes:
        steps: by identity.
    """

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self._titles: dict[str, tuple[str, list[str]]] = {}

    def add(
        self,
        kind: Kind,
        label: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Ref] | None = None,
        *,
        title: str,
        whom: str = "",
    ) -> str:
        """Add a step, or find the same one.

        Args:
            kind: of the step, like the next three.
            label: tells steps of a kind apart.
            settings: what it is made by.
            inputs: what it is made of.
            title: what it is, for the user.
            whom: whose it is, such as an arm; a shared step names all of them.

        Returns:
            Its identity, to make a `Ref` of.
        """
        step = Step(kind, label, settings, inputs or {})
        assert step.needs <= self.steps.keys(), f"{title}: add first what it needs"
        identity = step.identity
        self.steps.setdefault(identity, step)
        owners = self._titles.setdefault(identity, (title, []))[1]
        if whom and whom not in owners:
            owners.append(whom)
        return identity

    def title(self, identity: str) -> str:
        """What a step is and whose."""
        title, owners = self._titles[identity]
        return f"{title} of {', '.join(owners)}" if owners else title
