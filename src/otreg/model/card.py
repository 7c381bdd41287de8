"""The model card that is saved beside a model: how to load it, and what it was made of."""

from __future__ import annotations

import os
from pathlib import Path

from otreg.model.configuration import SpeechLMConfig

LOADING = """\
import otreg.model  # registers the model with the Auto classes
from transformers import AutoModelForMultimodalLM, AutoProcessor

folder = "."  # the folder, or the Hub id, of this model
model = AutoModelForMultimodalLM.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)

batch = processor(audio=[samples])  # samples: (n,) float32, mono, 16 kHz
ids = model.generate(**batch, max_new_tokens=200)
print(processor.batch_decode(ids[:, batch["input_ids"].shape[1]:]))
"""
"""Python that loads a saved model and transcribes with it."""

_CARD = """---
library_name: transformers
pipeline_tag: any-to-any
tags:
- otreg
- speech
---

# A speech language model

Speech in, text out: a speech encoder, an adapter and a causal language model, joined by
[otreg](https://pypi.org/project/otreg/) (`pip install otreg`).

{parts}

transformers' Auto classes know this kind of model once `otreg.model` is imported:

```python
{loading}```
"""


def model_card(config: SpeechLMConfig) -> str:
    """The card's text, in Markdown with Hugging Face's front matter.

    Args:
        config: of the model.
    """
    rows = [
        ("speech encoder", config.audio_config),
        ("language model", config.text_config),
    ]
    lines = ["| part | kind |", "|---|---|"]
    lines += [f"| {name} | {part.model_type} |" for name, part in rows]
    lines.insert(3, f"| adapter | {config.adapter_type}, {config.adapter_stack} frames each |")
    return _CARD.format(parts="\n".join(lines), loading=LOADING)


def write_model_card(folder: str | os.PathLike, config: SpeechLMConfig) -> None:
    """Write README.md into a saved model's folder; one that is there already stays as it is."""
    path = Path(folder) / "README.md"
    if not path.exists():
        path.write_text(model_card(config), encoding="utf-8")
