"""The kinds of steps of an experiment: what each makes, and of what.

Training and evaluation are those of `otreg train` and `otreg evaluate`.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from otreg.experiment.corpora import SENTENCES, TOWER_SPEECH, build
from otreg.experiment.graph import Call, Kind
from otreg.experiment.measure_kinds import Measured, find_measure
from otreg.experiment.programs import find_program
from otreg.training.config import RunConfig, config_from_dict

__all__ = [
    "AUDIO_TOWER",
    "CORPORA_STEP",
    "EVALUATION",
    "LANGUAGE_MODEL",
    "PREPARED",
    "STAGES",
    "STATES",
    "STATE_PARTS",
]

logger = logging.getLogger(__name__)

STATE_PARTS = ("train", "validation", "test")
_STEPS = ("experiment/steps.py", "experiment/corpora.py", "experiment/programs.py")
_SPEECH = ("transport", "data", "model", "prepare", "synthetic", *_STEPS)
_MEASURES = ("evaluation", "experiment/measure_kinds.py", "experiment/extra_measures.py")
_TRAINED = ("objectives", "forwards", "integrations", "training", *_SPEECH)


def make_corpora(call: Call) -> Mapping[str, Path]:
    """Synthesise corpora; what an earlier call completed with the same settings is kept."""
    settings = call.settings
    return build(settings["type"], call.folder, settings["sizes"], settings["split"])


def make_audio_tower(call: Call) -> Mapping[str, Path]:
    """Train a tiny encoder."""
    return _make_tower("audio_tower", call)


def make_language_model(call: Call) -> Mapping[str, Path]:
    """Train a tiny language model."""
    return _make_tower("language_model", call)


def _make_tower(name: str, call: Call) -> Mapping[str, Path]:
    from otreg.synthetic.towers import MiniatureSettings, build_tower

    shutil.rmtree(call.folder / name, ignore_errors=True)
    made = build_tower(
        name,
        [call.inputs[TOWER_SPEECH]],
        call.folder,
        texts=[call.inputs[SENTENCES]],
        exchanges=_numbered(call, "exchanges"),
        settings=MiniatureSettings(**call.settings),
    )
    return {name: made}


def make_prepared(call: Call) -> Mapping[str, Path]:
    """Make a manifest from others by a named program.

    It lies above all audio, as a manifest must: in the experiment's own folder.
    """
    program = find_program(call.settings["program"])
    manifests = _numbered(call, "manifest")
    out = call.root / f"{call.folder.name}.jsonl"
    out.unlink(missing_ok=True)
    options = dict(call.settings["options"])
    for name in ("model", "audio_tower", "language_model"):
        if name in call.inputs:
            options[name] = call.inputs[name]
    program(manifests, out, **options)
    return {"manifest": out}


def make_states(call: Call) -> Mapping[str, Path]:
    """Encode manifests once by a frozen encoder, all into one cache."""
    from otreg.data.dataset import SpeechTextDataset
    from otreg.data.interleave import Interleaving
    from otreg.data.manifest import read_manifests
    from otreg.prepare.encoder_source import load_tower
    from otreg.prepare.encoder_states import build_encoder_cache

    settings = call.settings
    model, processor = load_tower(call.inputs["audio_tower"], **settings["model"])
    spans = settings["interleaving"]
    cut = None if spans is None else Interleaving(tuple(spans[0]), tuple(spans[1]), spans[2])
    for part in STATE_PARTS:
        manifests = _numbered(call, part)
        if manifests:
            dataset = SpeechTextDataset(read_manifests(manifests), processor, interleaving=cut)
            size = settings["batch_size"]
            build_encoder_cache(model, dataset, call.folder, batch_size=size)
    return {"states": call.folder}


def make_stages(call: Call) -> Mapping[str, Path]:
    """Train one or several stages, from towers or from an earlier stage's model.

    A run that was killed goes on from its newest checkpoint; where that fails, it starts again.
    """
    from otreg.training import stages

    config = _run_config(call)
    train = functools.partial(stages.train, quiet=True)
    if (call.folder / "config.yaml").is_file():
        try:
            train(config, call.folder, resume=True)
        except Exception as error:
            logger.warning("cannot go on with %s (%s); it starts again", call.folder.name, error)
            shutil.rmtree(call.folder)
            train(config, call.folder)
    else:
        shutil.rmtree(call.folder, ignore_errors=True)
        train(config, call.folder)
    return {"model": call.folder / "model", "log": call.folder / "log.jsonl"}


def _run_config(call: Call) -> RunConfig:
    """The configuration of the stages with the paths of what they start from and read."""
    data = json.loads(json.dumps(call.settings["run"]))
    if "init" in call.inputs:
        data["model"]["init"] = str(call.inputs["init"])
    else:
        for name in ("audio_tower", "language_model"):
            data["model"][name] = str(call.inputs[name])
    for name in ("train", "validation"):
        data["data"][name] = [str(path) for path in _numbered(call, name)]
    if "states" in call.inputs:
        data["data"]["cache_dir"] = str(call.inputs["states"])
    return config_from_dict(data, source="the experiment's run")


def evaluate(call: Call) -> Mapping[str, Path]:
    """Evaluate a model on the experiment's corpora; writes its part of results.json."""
    from otreg.data.dataset import SpeechTextDataset
    from otreg.evaluation.curves import read_curves
    from otreg.evaluation.evaluate import evaluate_model
    from otreg.evaluation.measures import GAP_MEASURES
    from otreg.evaluation.results import write_results
    from otreg.model.loading import load_model
    from otreg.prepare.encoder_states import build_encoder_cache

    settings = call.settings
    model, processor = load_model(str(call.inputs["model"]))
    corpora = {name: call.inputs[f"corpus {name}"] for name in settings["corpora"]}
    caches = {
        name: build_encoder_cache(
            model, SpeechTextDataset([manifest], processor), call.inputs[f"states {name}"]
        )
        for name, manifest in corpora.items()
        if f"states {name}" in call.inputs
    }
    part = evaluate_model(
        model,
        processor,
        corpora,
        arm=settings["arm"],
        seed=settings["seed"],
        in_domain=settings["in_domain"],
        encoder_cache=caches or None,
        sample_measures=settings["sample_measures"],
        **settings["options"],
    )
    of = {"arm": settings["arm"], "seed": settings["seed"]}
    for measure in settings["measures"].values():
        of_measure = Measured(
            model,
            processor,
            {name: corpora[name] for name in measure["corpora"]},
            **of,
            batch_size=settings["options"]["batch_size"],
            caches={name: caches[name] for name in measure["corpora"] if name in caches},
            language_model=call.inputs["language_model"],
            trained_on=_numbered(call, "trained on"),
        )
        records = find_measure(measure["type"]).function(of_measure, **measure["options"])
        for name, found in records.items():
            part[name] = [*part.get(name, []), *found]
    # Samples of gap measures that no gate asks for would only make the file large.
    part["samples"] = [
        sample
        for sample in part["samples"]
        if sample["measure"] in settings["sample_measures"] or sample["measure"] not in GAP_MEASURES
    ]
    logs = _numbered(call, "log")
    part["curves"] = [of | record for log in logs for record in read_curves(log)]
    return {"results": write_results(part, call.folder / "results.json")}


def _numbered(call: Call, name: str) -> list[Path]:
    """The inputs `name 0`, `name 1`, …, in order."""
    count = sum(key.startswith(f"{name} ") for key in call.inputs)
    return [call.inputs[f"{name} {number}"] for number in range(count)]


CORPORA_STEP = Kind(
    "corpora",
    make_corpora,
    _SPEECH,
    in_worker=False,
    makes_manifests=True,
    is_shared_folder=True,
)
AUDIO_TOWER = Kind("towers", make_audio_tower, _SPEECH)
LANGUAGE_MODEL = Kind("towers", make_language_model, _SPEECH)
PREPARED = Kind("prepared", make_prepared, (*_TRAINED, "evaluation"), makes_manifests=True)
STATES = Kind("encoder-states", make_states, _SPEECH, by_content=False)
STAGES = Kind("stages", make_stages, _TRAINED)
EVALUATION = Kind("evaluations", evaluate, (*_TRAINED, *_MEASURES))
"""What each kind of step is, and the source that decides its result."""
