import ast
import subprocess
import sys
from pathlib import Path

import pytest

import otreg

SOURCE = Path(otreg.__file__).parent

# Each part may import the parts named here, and itself.
ALLOWED = {
    "shapes": set(),
    "names": set(),
    "versions": set(),
    "transport": {"shapes"},
    "pair": {"shapes", "transport"},
    "objectives": {"shapes", "names", "transport", "pair"},
    "data": {"shapes", "names", "transport", "pair"},
    "model": {"shapes", "names", "transport", "pair", "data"},
    "forwards": {"shapes", "names", "transport", "pair", "objectives", "data", "model"},
    "prepare": {"names", "versions", "data", "model", "pair", "objectives"},
    "synthetic": {"names", "data", "model"},
    "evaluation": {
        "forwards",
        "shapes",
        "names",
        "versions",
        "transport",
        "pair",
        "objectives",
        "data",
        "model",
    },
    "training": {
        "shapes",
        "names",
        "versions",
        "transport",
        "pair",
        "objectives",
        "forwards",
        "data",
        "model",
        "prepare",
    },
}


def imported_parts(path: Path) -> set[str]:
    """The parts of the package that a module imports, anywhere in it."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            module = node.module or ""
            names = [f"{module}.{a.name}" for a in node.names] if module == "otreg" else [module]
        parts |= {name.split(".")[1] for name in names if name.startswith("otreg.")}
    return parts


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part: str) -> None:
    modules = (
        [SOURCE / f"{part}.py"]
        if (SOURCE / f"{part}.py").is_file()
        else (SOURCE / part).rglob("*.py")
    )
    for module in modules:
        forbidden = imported_parts(module) - ALLOWED[part] - {part}
        assert not forbidden, f"{module} imports {sorted(forbidden)}"


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
