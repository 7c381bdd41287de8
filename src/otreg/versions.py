"""The versions of what decides a result."""

import platform
from importlib import metadata

PACKAGES = (
    "otreg",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "tokenizers",
    "numpy",
    "jiwer",
    "soundfile",
)


def versions() -> dict[str, str]:
    """Python, the platform and the packages that are installed, by name."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
