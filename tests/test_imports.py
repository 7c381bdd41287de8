import ast
import subprocess
import sys

import pytest

import otreg

LOSSES = "OTReg, SpeechTextPair, sinkhorn, CTC"
MODELS = "SpeechLMConfig, SpeechLMForConditionalGeneration, SpeechLMProcessor"


def loaded_by(names: str, watched: set[str]) -> set[str]:
    """Which of the watched packages a fresh Python has loaded after importing names from otreg."""
    code = f"import sys, otreg; assert 'torch' not in sys.modules; from otreg import {names}; "
    code += f"print(sorted({watched!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(run.stdout))


def test_importing_otreg_loads_no_audio_espeak_or_plotting_package() -> None:
    unwanted = {"soundfile", "soxr", "espeakng_loader", "matplotlib", "jinja2", "jiwer", "typer"}
    unwanted |= {"rich", "pandas", "transformers", "accelerate", "peft"}
    assert loaded_by(LOSSES, unwanted) == set()


def test_importing_the_model_loads_no_espeak_or_plotting_package() -> None:
    # transformers itself loads soundfile, soxr, jinja2 and rich where they are installed.
    assert loaded_by(MODELS, {"espeakng_loader", "matplotlib", "jiwer", "typer"}) == set()


def test_every_public_name_is_importable_and_listed() -> None:
    for name in otreg.__all__:
        assert getattr(otreg, name) is not None
        assert name in dir(otreg)
    with pytest.raises(AttributeError, match=r"'otreg' has no attribute 'OTreg'$"):
        otreg.OTreg  # noqa: B018


def test_a_room_that_is_not_imported_says_how() -> None:
    code = "import otreg; otreg.model"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "no attribute 'model'; it is a module: import otreg.model" in run.stderr
