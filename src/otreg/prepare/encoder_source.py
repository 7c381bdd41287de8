"""`otreg prepare encoder-states`: the frozen encoder of a run, or an encoder by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from otreg.data.dataset import SpeechTextDataset
from otreg.data.manifest import read_manifests
from otreg.model.encoders import run_encoder
from otreg.model.features import extract_features, num_feature_frames
from otreg.model.frames import apply_frame_plan, encoder_frame_plan
from otreg.model.loading import load_model, model_folder
from otreg.model.outputs import EncoderStates
from otreg.model.towers import load_audio_tower
from otreg.prepare.encoder_states import build_encoder_cache, encoder_fingerprint
from otreg.prepare.provenance import read_provenance, write_provenance


class TowerAlone(nn.Module):
    """An encoder in the place of a whole model: it can `encode`, and no more.

    Args:
        tower: a speech encoder.
        short_mel: as in `SpeechLMConfig`; None = what the encoder's configuration says of its
            training, as for a model that is built from it.
    """

    def __init__(self, tower: Any, *, short_mel: bool | None = None) -> None:
        super().__init__()
        self.audio_tower = tower
        if short_mel is None:
            short_mel = bool(getattr(tower.config, "short_mel", False))
        plan = [list(layer) for layer in encoder_frame_plan(tower.config)]
        self.config = SimpleNamespace(short_mel=short_mel, encoder_frame_plan=plan)

    def encode(self, input_features: Tensor, input_features_mask: Tensor) -> EncoderStates:
        """Encode as `SpeechLMForConditionalGeneration.encode` does."""
        states, mask = run_encoder(
            self.audio_tower,
            self.audio_tower.config,
            self.config.encoder_frame_plan,
            input_features,
            input_features_mask,
            short_mel=self.config.short_mel,
        )
        return EncoderStates(encoder_hidden_states=states, encoder_mask=mask)


class FeaturesAlone:
    """A feature extractor in the place of a whole processor: features, no text.

    Args:
        feature_extractor: the encoder's.
        frame_plan: the encoder's frame plan.
    """

    def __init__(self, feature_extractor: Any, frame_plan: Sequence[Sequence[int]]) -> None:
        self.feature_extractor = feature_extractor
        self.frame_plan = frame_plan

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Features of one utterance without padding."""
        return extract_features(self.feature_extractor, samples)

    def feature_length(self, num_samples: int) -> int:
        """Frames that `features` gives for so many samples."""
        return num_feature_frames(self.feature_extractor, num_samples)

    def num_speech_frames(self, feature_length: int) -> int:
        """Encoder frames: without an adapter each is a speech frame."""
        return apply_frame_plan(feature_length, self.frame_plan)


def load_encoder(source: str | Path) -> tuple[Any, Any]:
    """What encodes: the model and processor of a run or model folder, or a tower's stand-ins.

    Args:
        source: a run folder, a model folder, or the folder or Hub id of a speech encoder.

    Raises:
        ValueError: none of these.
    """
    from transformers import AutoConfig

    from otreg.model.configuration import SpeechLMConfig

    path = Path(source)
    if (path / "model").is_dir() or (path / "config.yaml").is_file():
        return load_model(str(model_folder(path)))
    try:
        if AutoConfig.from_pretrained(source).model_type == SpeechLMConfig.model_type:
            return load_model(str(path))
        return load_tower(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"cannot load an encoder from {str(source)!r}: {error}; give a run, a model folder, or "
            "the folder or Hub id of a speech encoder"
        ) from error


def load_tower(
    source: str | Path, *, short_mel: bool | None = None, dtype: Any = "auto"
) -> tuple[Any, Any]:
    """A speech encoder and its feature extractor, in the places of a whole model and processor.

    Args:
        source: folder or Hub id.
        short_mel: as in `TowerAlone`.
        dtype: of the weights, as for from_pretrained.

    Raises:
        OSError, ValueError: it cannot be loaded.
    """
    from transformers import AutoFeatureExtractor

    model = TowerAlone(load_audio_tower(source, dtype=dtype), short_mel=short_mel)
    extractor = AutoFeatureExtractor.from_pretrained(source)
    return model, FeaturesAlone(extractor, model.config.encoder_frame_plan)


def prepare_encoder_states(
    inputs: Sequence[str | Path],
    out: str | Path,
    source: str | Path,
    *,
    batch_size: int = 16,
    device: str | None = None,
    root: str | Path | None = None,
    quiet: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Fill an encoder cache, for `data.cache_dir`.

    What the cache holds of the same encoder and audio is kept, so a build that was killed goes on
    from its last complete file.

    Args:
        inputs: manifests.
        out: the cache's folder.
        source: see `load_encoder`.
        batch_size: utterances encoded together.
        device: such as "cuda"; None = the CPU.
        root: folder that the manifests' audio paths start from.
        quiet: no progress bar.
        command: the command line, for the provenance file.

    Returns:
        The provenance, written beside the cache's folder.

    Raises:
        ValueError: no encoder, or audio or manifests that cannot be used.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder for the cache")
    rows = read_manifests(inputs, root=root)
    model, processor = load_encoder(source)
    if device is not None:
        model.to(torch.device(device))
    dataset = SpeechTextDataset(rows, processor)
    cache = build_encoder_cache(model, dataset, out, batch_size=batch_size, progress=not quiet)
    settings = {"encoder": encoder_fingerprint(model, processor), "source": str(source)}
    write_provenance(
        out,
        "encoder-states",
        settings,
        inputs,
        command=command,
        counts={"rows": len(rows), "clips": len(dataset.clips()), "held": len(cache)},
    )
    return read_provenance(out)
