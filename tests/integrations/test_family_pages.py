"""The facts at the head of each page in docs/families; OTREG_WRITE_TABLES=1 writes them."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
from families.base import ReadFamily
from families_at_hand import ALL, READ, REFUSED
from transformers.models.auto.configuration_auto import model_type_to_module_name

from otreg.integrations.families import _NO_PLACEHOLDERS

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "families"
BEGIN = "<!-- facts: written by tests/integrations/test_family_pages.py -->\n"
END = "<!-- end -->"
SAMPLES = 32_000  # 2 s, shorter than the windows of the tests' models


def measured() -> dict[str, list[str]]:
    """The README's table, which a test measures: a family's name -> class, attach(), to know."""
    rows = re.findall(r"^\| (.+?) \| `(\w+)` \| (\w+) \| (.*?) ?\|$", _readme(), re.MULTILINE)
    return {name: rest for name, *rest in rows}


def _readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def checkpoint(model_type: str) -> str | None:
    """What transformers' own documentation of the configuration calls its checkpoint."""
    package = f"transformers.models.{model_type_to_module_name(model_type)}"
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    (source,) = Path(spec.origin).parent.glob("configuration_*.py")
    return re.findall(r'checkpoint="([^"]+)"', source.read_text(encoding="utf-8"))[0]


def facts(family: ReadFamily) -> str:
    """The table of a page."""
    name, _, to_know = measured()[family.name]
    rows, placeholders = family.num_rows(SAMPLES), (family.num_placeholders or family.num_rows)
    of_all = f", of {placeholders(SAMPLES)} placeholders" if family.num_placeholders else ""
    if placeholders(SAMPLES) == rows:
        of_all = ""
    lines = [
        "| | |",
        "|---|---|",
        f"| class | `{name}` |",
        f"| `model_type` | `{family.model_type}` |",
    ]
    named = checkpoint(family.model_type)
    if named is not None:
        whole = ", the whole model" if family.model_type.endswith("thinker") else ""
        lines.append(f"| checkpoint that transformers names | `{named}`{whole} |")
    lines.append(f"| rows of speech in 2 s | {rows}{of_all} |")
    lines.append(f"| beside longer utterances | {to_know or 'a row changes by less than 0.01 %'} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", READ)
def test_a_page_has_the_familys_facts(name: str) -> None:
    family, path = ALL[name], PAGES / f"{name}.md"
    assert isinstance(family, ReadFamily)
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    written, _, after = rest.partition(END)
    expected = facts(family)
    if os.environ.get("OTREG_WRITE_TABLES"):
        path.write_text(f"{before}{BEGIN}{expected}{END}{after}", encoding="utf-8")
        return
    assert before.startswith(f"# {family.name}\n")
    assert written == expected, "OTREG_WRITE_TABLES=1 pytest … writes the facts anew"


@pytest.mark.parametrize("name", READ)
def test_a_page_that_warns_of_batch_mates_is_of_a_family_that_sees_padding(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert ("depend on their batch" in page) == ("sees padding" in measured()[ALL[name].name][2])


def test_every_family_has_a_page_and_stands_in_the_list() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*READ, "README", "refused"}
    listed = re.findall(r"\((\w+)\.md\)", (PAGES / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted([*READ, "refused"])


def test_the_refused_are_all_named_with_the_reason() -> None:
    page = (PAGES / "refused.md").read_text(encoding="utf-8")
    for kind, reason in _NO_PLACEHOLDERS.items():
        assert f"| `{kind}` | {reason.removeprefix('it ')} |" in page
    assert {ALL[name].model_type for name in REFUSED} <= set(_NO_PLACEHOLDERS)
