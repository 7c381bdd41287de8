import importlib
import re
from pathlib import Path

import pytest

from otreg import OTReg

DOCS = Path(__file__).parents[2] / "docs"
NAMES = re.findall(r"`((?:transport|objectives)\.[\w.]+)`", (DOCS / "theory.md").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_theory_names_functions_that_exist(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(importlib.import_module(f"otreg.{module}"), attribute))


def test_the_theory_explains_options_that_exist() -> None:
    text = (DOCS / "theory.md").read_text() + (DOCS / "papers.md").read_text()
    options = OTReg.__dataclass_fields__
    for name in ("unique_threshold", "rho_target", "plan_gradient", "pad_mass", "vocabulary"):
        assert name in options
        assert name in text
