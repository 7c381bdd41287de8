"""Sentence embeddings: any Hugging Face text model, or TF-IDF for small trials."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from otreg.data.manifest import Utterance
from otreg.prepare.digests import model_identity
from otreg.prepare.program import Program
from otreg.prepare.texts import text_of

TFIDF = "tfidf"
_MAX_TOKENS = 512


class Embedder(Protocol):
    """Gives sentence embeddings of unit length.

    Attributes:
        settings: all that decides the embeddings besides the texts, as JSON.
    """

    settings: dict[str, Any]

    def embed(self, rows: Sequence[Utterance], program: Program) -> np.ndarray:
        """(rows, dim) float32, through the program's journal where they cost time."""


def load_embedder(name: str, *, device: str | None = None, seed: int = 0) -> Embedder:
    """The embedder of a name: "tfidf", or the folder or Hub id of a text model.

    Raises:
        ValueError: no model can be loaded from there.
    """
    return TfidfEmbedder(seed=seed) if name == TFIDF else ModelEmbedder(name, device=device)


class TfidfEmbedder:
    """TF-IDF of words, brought to few dimensions by SVD: no model needed; for small trials.

    Args:
        dim: the most dimensions.
        seed: of the SVD.
    """

    def __init__(self, *, dim: int = 64, seed: int = 0) -> None:
        self.dim = dim
        self.seed = seed
        self.settings: dict[str, Any] = {"embedder": TFIDF, "dim": dim, "seed": seed}

    def embed(self, rows: Sequence[Utterance], program: Program) -> np.ndarray:
        """(rows, dim) float32; fitted to the very rows, so nothing goes into the journal."""
        try:
            from sklearn.decomposition import TruncatedSVD
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise ImportError("TF-IDF needs scikit-learn: pip install 'otreg[select]'") from error
        counts = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(
            text_of(row) for row in rows
        )
        dim = min(self.dim, counts.shape[0] - 1, counts.shape[1] - 1)
        if dim < 1:
            return counts.toarray().astype(np.float32)
        reduced = TruncatedSVD(dim, random_state=self.seed).fit_transform(counts)
        return unit(reduced).astype(np.float32)


class ModelEmbedder:
    """The mean over tokens of a Hugging Face text model's last hidden states, at unit length.

    Args:
        source: folder or Hub id of an encoder, or of a causal language model.
        device: such as "cuda"; None = the CPU.
        batch_size: texts that are embedded together.
    """

    def __init__(self, source: str, *, device: str | None = None, batch_size: int = 32) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load a text model from {source!r}: {error}; give a folder or Hub id, or "
                f"--embedder {TFIDF}"
            ) from error
        self.model: Any = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model.eval()
        if device is not None:
            self.model.to(device)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.batch_size = batch_size
        self.settings: dict[str, Any] = {
            "embedder": model_identity(source, model.config),
            "batch_size": batch_size,
        }

    def embed(self, rows: Sequence[Utterance], program: Program) -> np.ndarray:
        """(rows, dim) float32, kept as float16 in the journal."""
        found = program.map(
            rows, self._texts, self.settings, batch_size=self.batch_size, decode=_unpack
        )
        return np.stack(found).astype(np.float32)

    def _texts(self, rows: Sequence[Utterance]) -> list[str]:
        import torch

        longest = min(int(self.tokenizer.model_max_length), _MAX_TOKENS)
        batch = self.tokenizer(
            [text_of(row) for row in rows],
            padding=True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        ).to(next(self.model.parameters()).device)
        with torch.no_grad():
            hidden = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).last_hidden_state.float()
        mask = batch["attention_mask"][..., None].bool()
        mean = torch.where(mask, hidden, 0).sum(1) / mask.sum(1).clamp_min(1)
        return [_pack(row) for row in unit(mean.cpu().numpy())]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (rows, dim) at Euclidean length 1; those of length 0 stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def _pack(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def _unpack(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f2")
