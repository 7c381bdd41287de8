"""results.json: its schema, checked on the way in and out, merged over runs, and summarised.

The file is one JSON object (strict JSON: no NaN, no infinity). Lists of records, each known by its
key; docs/evaluation.md describes every field:

    rows          arm, seed, corpus, language     -> error rates (this list must be there)
    gap           arm, seed, corpus               -> gap measures, by the names in measures.MEASURES
    gap_by_layer  arm, seed, corpus, layer        -> the same at a layer of the language model
    samples       arm, seed, corpus, measure, at  -> a measure utterance by utterance
    transcripts   arm, seed, corpus, id           -> reference and hypothesis, as scored
    alignments    arm, seed, corpus, id           -> transport plan and distances of one utterance
    curves        arm, seed, stage, step          -> logged values of the training
    gate_specs    name                            -> gates and controls, as the experiment asks them
    gates         name                            -> the same, judged; made anew by `merge_results`

and facts about the run: base_arm, arm_descriptions, normaliser, config, versions, machine, command,
created, seconds, error_rates (false: they answer no question and are not shown).
"""

import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otreg.evaluation.gate_specs import KINDS, parse_specs
from otreg.evaluation.gates import judge
from otreg.evaluation.samples import check_sample
from otreg.versions import versions

LISTS: dict[str, tuple[str, ...]] = {
    "rows": ("arm", "seed", "corpus", "language"),
    "gap": ("arm", "seed", "corpus"),
    "gap_by_layer": ("arm", "seed", "corpus", "layer"),
    "samples": ("arm", "seed", "corpus", "measure", "at"),
    "transcripts": ("arm", "seed", "corpus", "id"),
    "alignments": ("arm", "seed", "corpus", "id"),
    "curves": ("arm", "seed", "stage", "step"),
    "gate_specs": ("name",),
    "gates": ("name",),
}
"""Each list of records and the fields that make up a record's key."""

_FIELDS = {
    "rows": ("domain", "num_utterances", "num_words", "wer", "cer"),
    "samples": ("ids_digest", "numerator", "denominator"),
    "gates": ("kind", "comparison", "bound"),
}
_NUMBER_LIST = re.compile(r"\[\n[-+\s\d.,eE]*\]")  # JSON escapes line ends within strings
RUN_FACTS = ("config", "versions", "machine", "command", "created", "seconds")
"""Facts that may differ from run to run."""


def write_results(results: Mapping[str, Any], path: str | Path) -> Path:
    """Check results against the schema and write them as strict JSON, whole or not at all.

    Numbers of NumPy and torch become JSON numbers, paths become strings. Numbers that are not
    finite are refused: a reader could not parse them, and None says "not known" better.

    Args:
        results: the object described in this module's docstring.
        path: file to write; its folder is made.

    Returns:
        The path written.

    Raises:
        ValueError: a missing field, a wrong value, or a number that is not finite, named.
    """
    plain = _plain(results, "results")
    check_results(plain)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=1)
    text = _NUMBER_LIST.sub(lambda found: " ".join(found[0].split()), text)  # one line a list
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_results(path: str | Path) -> dict[str, Any]:
    """Read and check a results.json.

    Raises:
        ValueError: no such file, not JSON, or not of the schema; the file is named.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise ValueError(f"expected a results.json, found no file at {path}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        check_results(results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return results


def merge_results(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One results object from those of several runs, for instance one per arm and seed.

    Lists are joined. Facts on which all parts agree stay; config, versions, machine, command,
    created and seconds are kept per run under "runs" when they differ. Error rates are hidden
    (error_rates: false) where all parts hide them. A part without rows tells
    facts about all the others together, such as the command that made them. Gates and controls are
    judged anew by all that was merged, where any part has gate_specs.

    Raises:
        ValueError: no parts; parts scored with different normalisers, whose error rates cannot be
            compared; or one key with two different records.
    """
    shared = [part for part in parts if "rows" not in part]
    parts = [part for part in parts if "rows" in part]
    if not parts:
        raise ValueError("expected at least one results object to merge, received none")
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(key for part in parts for key in part):
        values = [part[name] for part in parts if name in part]
        if name == "runs" or (name == "gates" and any("gate_specs" in part for part in parts)):
            continue
        if name in LISTS:
            merged[name] = _join(name, values)
        elif name == "error_rates":  # hidden where all parts say so
            if len(values) == len(parts) or any(values):
                merged[name] = any(values)
        elif name in RUN_FACTS and len(values) < len(parts):
            continue  # not a fact of all runs; it stays with those that have it
        elif all(value == values[0] for value in values):
            merged[name] = values[0]
        elif name == "arm_descriptions":
            merged[name] = {arm: text for value in values for arm, text in value.items()}
        elif name in ("normaliser", "base_arm"):
            shown = ", ".join(str(value) for value in values)
            raise ValueError(f"expected one {name} in all results to merge, received {shown}")
    _check_one_normaliser(merged["rows"])
    runs = [run for part in parts for run in (part.get("runs") or [_facts(part)])]
    distinct = [run for index, run in enumerate(runs) if run not in runs[:index]]
    if any(
        [run.get(fact) for run in distinct] != [distinct[0].get(fact)] * len(distinct)
        for fact in RUN_FACTS
    ):
        merged["runs"] = distinct
    for facts in shared:
        merged |= facts
    if merged.get("gate_specs"):
        merged["gates"] = judge(merged, merged["gate_specs"])
    check_results(merged)
    return merged


def check_results(results: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the place, where results do not follow the schema."""
    if not isinstance(results, Mapping) or not isinstance(results.get("rows"), list):
        raise ValueError("expected an object with a list 'rows', as `otreg evaluate` writes it")
    if not results["rows"]:
        raise ValueError("expected at least one record in 'rows', received none")
    for name, key in LISTS.items():
        needed = key + _FIELDS.get(name, ())
        seen: set[tuple] = set()
        for index, record in enumerate(results.get(name) or []):
            place = f"{name}[{index}]"
            if not isinstance(record, Mapping):
                raise ValueError(f"{place}: expected an object, received {record!r}")
            missing = [field for field in needed if record.get(field) is None]
            if missing:
                raise ValueError(f"{place}: expected the fields {', '.join(missing)}")
            if name == "samples":
                check_sample(record, place)
            if name == "gates":
                _check_gate(record, place)
            identity = _identity(name, record)
            if identity in seen:
                shown = ", ".join(f"{k} {v}" for k, v in zip(key, identity, strict=True))
                raise ValueError(f"{place}: expected one record for {shown}, received a second")
            seen.add(identity)
    parse_specs(results.get("gate_specs") or [])
    domains: dict[str, str] = {}
    for index, row in enumerate(results["rows"]):
        place = f"rows[{index}]"
        if row["domain"] not in ("in", "out"):
            raise ValueError(f"{place}: expected domain 'in' or 'out', received {row['domain']!r}")
        if domains.setdefault(row["corpus"], row["domain"]) != row["domain"]:
            raise ValueError(f"{place}: corpus {row['corpus']} is both in and out of domain")
        for field in ("num_utterances", "num_words", "wer", "cer"):
            value = row[field]
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise ValueError(f"{place}: expected a number {field} >= 0, received {value!r}")


def environment() -> dict[str, Any]:
    """Versions of the packages that matter and a description of the machine, for results.json.

    Returns:
        {"versions": name -> version, "machine": fact -> value}. Names neither host nor user.
    """
    import torch

    machine: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        machine["accelerator"] = torch.cuda.get_device_name()
    return {"versions": versions(), "machine": machine}


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _facts(results: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one run, with the arms and seeds they belong to."""
    facts = {name: results[name] for name in RUN_FACTS if name in results}
    return {
        "arms": list(dict.fromkeys(row["arm"] for row in results["rows"])),
        "seeds": sorted({row["seed"] for row in results["rows"]}),
    } | facts


def _check_one_normaliser(rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows that name different normalisers; a row may name none."""
    named = list(dict.fromkeys(row["normalizer"] for row in rows if row.get("normalizer")))
    if len(named) > 1:
        raise ValueError(
            f"expected one normaliser in all results to merge, received {', '.join(named)}; "
            "evaluate the runs again with one --normalizer"
        )


def _join(name: str, lists: Sequence[Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """All records once; a key that comes twice must come with the same record."""
    joined: dict[tuple, Mapping[str, Any]] = {}
    for record in (record for records in lists for record in records or []):
        key = _identity(name, record)
        if joined.setdefault(key, record) != record:
            shown = ", ".join(f"{k} {v}" for k, v in zip(LISTS[name], key, strict=True))
            remedy = "give the runs different arm names or seeds"
            if name.startswith("gate"):
                remedy = "merge the runs of one experiment, as it now stands"
            raise ValueError(
                f"expected one record of {name} for {shown}, received two that differ; {remedy}"
            )
    return list(joined.values())


def _identity(name: str, record: Mapping[str, Any]) -> tuple:
    """The values of a record's key; a mapping as sorted pairs."""
    values = (record[field] for field in LISTS[name])
    return tuple(tuple(sorted(v.items())) if isinstance(v, Mapping) else v for v in values)


def _check_gate(record: Mapping[str, Any], place: str) -> None:
    """A judged gate: its kind, and a verdict that a figure stands behind."""
    if record["kind"] not in KINDS:
        raise ValueError(f"{place}: expected kind 'gate' or 'control', received {record['kind']!r}")
    held, figure = record.get("held"), record.get("figure")
    if held not in (True, False, None) or (
        held is not None and not isinstance(figure, int | float)
    ):
        raise ValueError(f"{place}: expected held true or false with a figure, or null without one")


def _plain(value: Any, place: str) -> Any:
    """value in JSON's own types; refuses what strict JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # NumPy and torch, scalars and arrays
        return _plain(value.tolist(), place)
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(
                f"{place}: expected a finite number, received {value}; leave out what is not known"
            )
        return value
    raise ValueError(f"{place}: expected JSON values, received {type(value).__name__}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"expected strict JSON, received the constant {name}")
