"""Uploading an exported folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_push", "push_folder"]

_SUFFIXES = frozenset({".json", ".safetensors", ".py", ".md", ".txt", ".model", ".jinja"})
_NEVER = frozenset({"trainer_state.json", "results.json"})


def check_push(repo_id: str, licence: str | None) -> None:
    """Refuse what a push would be refused for, before anything is written.

    Raises:
        ValueError: no licence, or a name that the Hub does not take.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if licence is None:
        raise ValueError(
            "expected a licence for a model that is pushed, received none; give --license, such as "
            "apache-2.0, or other"
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"expected OWNER/NAME to push to, received {repo_id!r}: {error}"
        ) from error


def push_folder(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a folder of `export_model` as one commit; the repository is made where it is missing.

    The token is huggingface_hub's own (`hf auth login`, or HF_TOKEN).

    Args:
        folder: what `export_model` wrote.
        repo_id: OWNER/NAME on the Hub.
        private: make a new repository private.

    Returns:
        The address of the commit.

    Raises:
        ValueError: no such folder, a card without a licence, or a file that has no place there, such
            as an optimizer's state, audio or a manifest.
    """
    from huggingface_hub import HfApi, ModelCard

    folder = Path(folder)
    own = folder / "config.json", folder / "README.md"
    card = ModelCard.load(own[1]) if all(path.is_file() for path in own) else None
    if card is None or "otreg" not in (card.data.tags or []):
        raise ValueError(f"expected a folder that otreg export wrote, received {str(folder)!r}")
    check_push(repo_id, card.data.license)
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    strange = [
        name for name in files if Path(name).suffix not in _SUFFIXES or Path(name).name in _NEVER
    ]
    if strange:
        raise ValueError(
            f"{str(folder)!r} holds {', '.join(strange)}, which is no part of a model; take it out, or "
            "export the model anew"
        )
    api = HfApi()
    api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        repo_type="model",
        folder_path=folder,
        allow_patterns=files,
        commit_message="Upload a speech language model of otreg",
    )
    return str(commit.commit_url)
