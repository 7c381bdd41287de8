"""The versions of what decides a result."""

import platform
from collections.abc import Iterable
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


def versions(extra: Iterable[str] = ()) -> dict[str, str]:
    """Python, the platform and the packages that are installed, by name; extra = further packages."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in (*PACKAGES, *extra):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
