"""The README's table of families, measured; OTREG_WRITE_TABLES=1 writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from families.base import TEXTS, waveforms
from families_at_hand import ALL, DURATIONS_S, REFUSED, Load

from otreg import OTReg, attach
from otreg.forwards import run_forwards
from otreg.integrations import ForeignPort, UnsupportedModelError

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = (
    "<!-- families: written by tests/integrations/test_readme_table.py -->\n",
    "<!-- end -->",
)


def change_beside_longer_speech(family: Any, model: Any, processor: Any) -> float:
    """How much a row of speech changes beside longer utterances, as a share of its norm."""
    port = ForeignPort(model, processor=processor)
    sounds, largest = waveforms(*DURATIONS_S), 0.0
    with torch.no_grad():
        batch = family.batch(processor, sounds, TEXTS)
        together = run_forwards(port, port.completed(batch)).pair()
        for number, (sound, text) in enumerate(zip(sounds, TEXTS, strict=True)):
            batch = family.batch(processor, [sound], [text])
            alone = run_forwards(port, port.completed(batch)).pair()
            ours = together.speech[number][together.speech_mask[number]]
            theirs = alone.speech[0][alone.speech_mask[0]]
            size = min(len(ours), len(theirs))
            change = (ours[:size] - theirs[:size]).norm(dim=1) / theirs[:size].norm(dim=1)
            largest = max(largest, float(change.max()))
    port.detach()
    return largest


def row(name: str, load: Load) -> tuple[str, str]:
    """The family's name and its row."""
    family, model, processor = load(name)
    shown = f"| {family.name} | `{type(model).__name__}` |"
    if name in REFUSED:
        try:
            attach(model, OTReg(), weight=0.3)
        except UnsupportedModelError:
            return (
                family.name,
                f"{shown} refused | no placeholders: audio is added to every position |",
            )
        raise AssertionError(f"{name} was not refused")
    handle = attach(model, OTReg(), weight=0.3, processor=processor)
    model(**family.batch(processor, waveforms(*DURATIONS_S), TEXTS)).loss.backward()
    handle.detach()
    change = change_beside_longer_speech(family, model, processor)
    depends = (
        "" if change < 1e-4 else f"its encoder sees padding (a row changes by up to {change:.0%})"
    )
    return family.name, f"{shown} yes | {depends} |"


def test_the_readme_has_the_measured_table(load: Load) -> None:
    rows = sorted((row(name, load) for name in ALL), key=lambda found: found[0].lower())
    head = ["| family | class | attach() | to know |", "|---|---|---|---|"]
    table = "\n".join([*head, *(line for _, line in rows)])
    page = README.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    written, _, after = rest.partition(END)
    if os.environ.get("OTREG_WRITE_TABLES"):
        README.write_text(f"{before}{BEGIN}{table}\n{END}{after}", encoding="utf-8")
        return
    assert written.strip() == table, "OTREG_WRITE_TABLES=1 pytest … writes the table anew"
