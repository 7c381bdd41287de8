"""What a model card tells of a run: its data, its stages, what it was built on, its results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otreg.data.audio import audio_info
from otreg.data.segments import row_of
from otreg.data.sources import Source, is_stream, read_source
from otreg.evaluation.results import read_results
from otreg.languages import primary
from otreg.training.config import RunConfig, load_config
from otreg.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFacts:
    """One manifest that the model was trained on.

    Args:
        name: of the file, without its folder.
        num_rows: its rows; None where it was not at hand.
        hours: of audio; None where some of it was not at hand.
        languages: language codes, sorted.
    """

    name: str
    num_rows: int | None = None
    hours: float | None = None
    languages: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFacts:
    """What is known of a model beside its weights.

    Args:
        name: what the card calls the model.
        config: the run's configuration; None for a mere model folder.
        data: its training manifests.
        base_models: part -> Hub id or folder's name, such as {"language model": "Qwen/Qwen2.5-7B"}.
        results: of `otreg evaluate`; None where there are none.
    """

    name: str
    config: RunConfig | None = None
    data: tuple[DataFacts, ...] = ()
    base_models: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None

    def languages(self) -> list[str]:
        """The languages of the training data, without script and region, sorted."""
        codes = {primary(code) for facts in self.data for code in facts.languages}
        return sorted(codes - {""})


def run_facts(run: str | Path, *, results: str | Path | None = None) -> RunFacts:
    """Gather what a run folder tells.

    Args:
        run: a run folder or a model folder.
        results: a results.json; None = the run's own, where it has one.

    Raises:
        ValueError: the results are not of one model, or cannot be read.
    """
    folder = RunFolder(run)
    own = folder.root / "results.json"
    if results is None and own.is_file():
        results = own
    found = None if results is None else read_results(results)
    if found is not None:
        models = sorted({(row["arm"], row["seed"]) for row in found["rows"]})
        if len(models) > 1:
            shown = ", ".join(f"{arm} seed {seed}" for arm, seed in models)
            raise ValueError(
                f"{results}: expected the results of one model, received those of {shown}; "
                "give the run's own, as otreg evaluate writes them"
            )
    name = folder.root.absolute().name
    if not folder.config.is_file():
        return RunFacts(name, results=found)
    config = load_config(folder.config)
    data = config.data
    return RunFacts(
        name,
        config=config,
        data=tuple(data_facts(source, root=data.root) for source in data.train),
        base_models=base_models(config),
        results=found,
    )


def data_facts(source: Source, *, root: Path | None = None) -> DataFacts:
    """Read training data, and the headers of its audio; neither needs to be at hand still.

    Args:
        source: a manifest, or a mapping that says where other data is; a stream is only named.
        root: folder that manifests' audio paths start from.
    """
    given = source.get("path", "") if isinstance(source, Mapping) else source
    path = Path(str(given))
    name = path.parent.name if path.stem == "manifest" and path.parent.name else path.stem
    if is_stream(source):
        return DataFacts(name)
    try:
        utterances = read_source(source, root=root)
    except (OSError, ValueError) as error:
        logger.warning("the card says that a manifest is not at hand: %s", error)
        return DataFacts(name)
    spans = [clip for utterance in utterances for clip in row_of(utterance).clips]
    hours: float | None
    try:
        hours = sum(audio_info(span).duration_s for span in spans) / 3600
    except (OSError, ValueError) as error:
        logger.warning("the card gives no hours of %s: %s", name, error)
        hours = None
    languages = sorted({utterance.language for utterance in utterances} - {""})
    return DataFacts(name, len(utterances), hours, tuple(languages))


def base_models(config: RunConfig) -> dict[str, str]:
    """What the first run of a chain of runs started from; folders are named, not located."""
    seen: set[Path] = set()
    while config.model.init is not None:
        folder = RunFolder(config.model.init)
        earlier = folder.config if folder.config.is_file() else folder.root.parent / "config.yaml"
        if not earlier.is_file() or earlier in seen:
            return {"model to go on from": shown_name(config.model.init)}
        seen.add(earlier)
        config = load_config(earlier)
    parts = {
        "speech encoder": config.model.audio_tower,
        "language model": config.model.language_model,
    }
    return {part: shown_name(value) for part, value in parts.items() if value is not None}


def hub_ids(values: Sequence[str]) -> list[str]:
    """Those of the names that can be Hub ids, OWNER/NAME."""
    return [value for value in values if value.count("/") == 1]


def shown_name(value: str) -> str:
    """A Hub id as it is; of a folder its last part, since a card does not tell where files lay."""
    path = Path(value)
    is_folder = path.is_dir() or value.count("/") > 1 or value.startswith((".", "/", "~"))
    return path.name if is_folder else value
