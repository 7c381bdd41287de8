"""The model card of an exported model: what it was made of, how well it does, how to load it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import otreg
from otreg.export.facts import DataFacts, RunFacts, hub_ids
from otreg.model.card import LOADING
from otreg.model.configuration import SpeechLMConfig
from otreg.training.config import StageConfig

__all__ = ["check_licence", "model_card"]

_NO_LICENCE = (
    "**No licence was named for this model** (`otreg export --license`). Until its authors name one, "
    "nobody else may use it."
)
_LOADING = """\
With otreg installed (`pip install otreg`):

```python
{loading}```

Without it, the code in this folder runs (`pip install {packages}`): leave out the first line, and give
`trust_remote_code=True` to both `from_pretrained`. A pipeline takes chat messages:

```python
from transformers import pipeline

pipe = pipeline("any-to-any", model=folder, trust_remote_code=True)
asked = [{{"role": "user", "content": [{{"type": "audio", "audio": "speech.wav"}}]}}]
print(pipe(text=asked, return_full_text=False)[0]["generated_text"])
```
"""


_LOADING_STOCK = """\
The checkpoint is one of its family: it loads as the model that it was trained from, and otreg is not needed.

```python
from transformers import AutoProcessor, {model_class}

folder = "."  # the folder, or the Hub id, of this model
model = {model_class}.from_pretrained(folder{trust})
processor = AutoProcessor.from_pretrained(folder{trust})
```

`otreg transcribe FOLDER speech.wav` asks it as it was asked in training.
"""


def check_licence(licence: str) -> str:
    """The licence as the Hub takes it.

    Raises:
        ValueError: not of the form of the Hub's identifiers.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(
            f"expected one of the Hub's licence identifiers, such as apache-2.0, cc-by-4.0 or other, "
            f"received {licence!r}"
        )
    return licence


def model_card(
    config: Any, facts: RunFacts, *, licence: str | None, packages: Sequence[str]
) -> str:
    """The card: Markdown behind the Hub's YAML metadata.

    Args:
        config: of the model, ours or that of others.
        facts: of its run, see `otreg.export.facts`.
        licence: a licence identifier of the Hub; None = the card says that it is missing.
        packages: what the folder's code needs where otreg is not installed.

    Raises:
        ValueError: the licence is no identifier.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    results = [EvalResult(**record) for record in _eval_results(facts)]
    data = ModelCardData(
        license=None if licence is None else check_licence(licence),
        language=facts.languages() or None,
        library_name="transformers",
        pipeline_tag="any-to-any",
        tags=["otreg", "speech", "automatic-speech-recognition"],
        base_model=hub_ids(list(facts.base_models.values())) or None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    sections = {
        "Parts": _parts(config, facts),
        "Training data": _data(facts),
        "Training": _training(facts),
        "Evaluation": _evaluation(facts),
        "Licence": _licence(licence, facts, own=isinstance(config, SpeechLMConfig)),
        "How to load it": _loading(config, packages),
    }
    body = "\n".join(f"## {title}\n\n{text.strip()}\n" for title, text in sections.items())
    head = (
        f"# {_cell(facts.name)}\n\nA speech language model: speech in, text out. {_made(config)} with "
        f"[otreg](https://pypi.org/project/otreg/) {otreg.__version__}.\n"
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{head}\n{body}")  # parses what it is given
    return str(card)


def _made(config: Any) -> str:
    if isinstance(config, SpeechLMConfig):
        return "A speech encoder, an adapter and a causal language model, joined and trained"
    return f"A model of the family {config.model_type}, trained further"


def _loading(config: Any, packages: Sequence[str]) -> str:
    if isinstance(config, SpeechLMConfig):
        return _LOADING.format(loading=LOADING, packages=" ".join(packages))
    named = (config.architectures or ["AutoModel"])[0]
    is_remote = bool(getattr(config, "auto_map", None))
    return _LOADING_STOCK.format(
        model_class="AutoModel" if is_remote else named,
        trust=", trust_remote_code=True" if is_remote else "",
    )


def _parts(config: Any, facts: RunFacts) -> str:
    if not isinstance(config, SpeechLMConfig):
        started = ", ".join(facts.base_models.values())
        return _table(["family", "started from"], [[config.model_type, started]])
    towers: dict[str, Any] = {
        "speech encoder": config.audio_config,
        "language model": config.text_config,
    }
    rows = [
        [part, tower.model_type, facts.base_models.get(part, "")] for part, tower in towers.items()
    ]
    rows.insert(1, ["adapter", f"{config.adapter_type}, {config.adapter_stack} frames each", "new"])
    rows += [[part, "", name] for part, name in facts.base_models.items() if part not in towers]
    return _table(["part", "kind", "started from"], rows)


def _data(facts: RunFacts) -> str:
    if facts.config is None:
        return "Not known: the model was exported without its run."
    rows = [[one.name, *_data_cells(one)] for one in facts.data]
    return _table(["manifest", "rows", "hours", "languages"], rows)


def _data_cells(facts: DataFacts) -> list[str]:
    if facts.num_rows is None:
        return ["not at hand when this card was written", "", ""]
    hours = "not all audio at hand" if facts.hours is None else _hours(facts.hours)
    return [str(facts.num_rows), hours, ", ".join(facts.languages) or "not named"]


def _hours(hours: float) -> str:
    """Three significant digits, at least."""
    digits = 0 if hours >= 100 else 2 - math.floor(math.log10(hours)) if hours > 0 else 0
    return f"{hours:.{max(0, digits)}f}"


def _training(facts: RunFacts) -> str:
    if facts.config is None:
        return "Not known: the model was exported without its run."
    rows = [
        [
            stage.name,
            ", ".join(stage.train),
            _length(stage),
            f"{stage.learning_rate:g}",
            "; ".join(_objective(name, one) for name, one in stage.active().items()),
        ]
        for stage in facts.config.stages
    ]
    headings = ["stage", "trains", "length", "learning rate", "objectives, by weight"]
    return f"{_table(headings, rows)}\n\nSeed {facts.config.seed}."


def _length(stage: StageConfig) -> str:
    size = f"{stage.batch_size} rows" if stage.max_tokens is None else f"{stage.max_tokens} tokens"
    times = stage.gradient_accumulation_steps
    length = f"{stage.steps} steps" if stage.epochs is None else f"{stage.epochs:g} epochs"
    return f"{length} of {size}{f' × {times}' if times > 1 else ''}"


def _objective(name: str, objective: Any) -> str:
    details = [] if objective.type in (None, name) else [objective.type]
    details += [] if objective.layer is None else [f"layer {objective.layer}"]
    details += [f"{key}={value}" for key, value in objective.options.items()]
    return f"{name} {objective.weight:g}" + (f" ({', '.join(details)})" if details else "")


def _evaluation(facts: RunFacts) -> str:
    if facts.results is None:
        return "Not evaluated yet (`otreg evaluate`)."
    rows = [
        [
            row["corpus"],
            row["language"],
            row["domain"],
            str(row["num_words"]),
            _percent(row["wer"]),
            _interval(row),
            _percent(row["cer"]),
        ]
        for row in facts.results["rows"]
    ]
    headings = ["corpus", "language", "domain", "words", "WER %", "95 %", "CER %"]
    notes = [f"Compared after the normaliser {_normaliser(facts.results)}."]
    notes.append("The interval is a bootstrap over utterances.")
    if any(row.get("unit") == "character" for row in facts.results["rows"]):
        notes.append("Languages that do not write words apart count characters as words.")
    return f"{_table(headings, rows)}\n\n{' '.join(notes)}"


def _interval(row: Mapping[str, Any]) -> str:
    if row.get("wer_low") is None or row.get("wer_high") is None:
        return "–"
    return f"{_percent(row['wer_low'])}–{_percent(row['wer_high'])}"


def _normaliser(results: Mapping[str, Any]) -> str:
    named = dict.fromkeys(row["normalizer"] for row in results["rows"] if row.get("normalizer"))
    return ", ".join(named) or "(not named)"


def _licence(licence: str | None, facts: RunFacts, *, own: bool) -> str:
    text = _NO_LICENCE if licence is None else f"`{licence}`."
    if facts.base_models:
        text += " The licences of what it was built on hold, too."
    return f"{text} The code in this folder is otreg's, under Apache-2.0." if own else text


def _eval_results(facts: RunFacts) -> list[dict[str, Any]]:
    """Error rates for the Hub's metadata, in percent."""
    records = []
    for row in (facts.results or {}).get("rows", []):
        by_character = row.get("unit") == "character"
        metric = "cer" if by_character else "wer"
        records.append(
            {
                "task_type": "automatic-speech-recognition",
                "task_name": "Speech recognition",
                "dataset_type": row["corpus"],
                "dataset_name": f"{row['corpus']} ({row['language']})",
                "dataset_config": row["language"],
                "metric_type": metric,
                "metric_name": f"{metric.upper()}, %, after {row.get('normalizer', 'no named normaliser')}",
                "metric_value": round(100 * row["wer"], 2),
            }
        )
    return records


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that ends neither its cell nor its line, and is no HTML."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
