import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "pair",
        "transport.sinkhorn",
        "names",
        "objectives.otreg",
        "objectives.ctc",
        "objectives.base",
        "objectives.plan",
        "objectives.registry",
        "prepare.journal",
        "prepare.selection",
        "prepare.spelling",
        "transcription.joining",
    ],
)
def test_examples_in_docstrings_run(module: str) -> None:
    # By its full name: a function of the same name may stand before it in the package.
    result = doctest.testmod(importlib.import_module(f"otreg.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
