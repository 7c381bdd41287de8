"""What scenes are made of: tiny models under the names that the pages use, recordings, a trained run."""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tiny_run import WORDS, run_config, save_corpus, save_towers, stage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

ENCODERS = ("openai/whisper-large-v3", "openai/whisper-small")
LANGUAGE_MODELS = ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")
CTC = "facebook/wav2vec2-base-960h"
TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


class Shelf:
    """Things that are made once, when a scene first asks.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def towers(self) -> Path:
        """audio_tower/ and language_model/, of random weights."""
        save_towers(self.root / "towers", num_layers=2)
        return self.root / "towers"

    @cached_property
    def recordings(self) -> Path:
        """Manifests whose audio is below them: train.jsonl and others, with clips/, speech.wav and .flac."""
        folder = self.root / "recordings"
        save_corpus(folder / "clips")
        for number in range(1, 9):
            shutil.move(folder / f"clips/u{number - 1}.wav", folder / f"clips/a{number}.wav")
        lines = (folder / "clips" / "manifest.jsonl").read_text().splitlines()
        rows = []
        for number, line in enumerate(lines, 1):
            audio = {"id": f"a{number}", "audio": f"clips/a{number}.wav"}
            rows.append(json.loads(line) | audio)
        (folder / "clips" / "manifest.jsonl").unlink()
        parts = {"train": rows, "more": rows[:4]}
        parts |= dict.fromkeys(("dev", "test", "fleurs", "mls"), rows[:3])
        for name, part in parts.items():
            written = [row | {"id": f"{name}-{row['id']}"} for row in part]
            _write(folder / f"{name}.jsonl", written)
        exact = [_with_words(row, folder) for row in rows]
        for name in ("exact", "ctc"):
            _write(folder / f"{name}.jsonl", exact)
        samples, rate = soundfile.read(folder / "clips" / "a1.wav", dtype="float32")
        for suffix in ("wav", "flac"):
            soundfile.write(folder / f"speech.{suffix}", samples, rate)
        return folder

    @property
    def samples(self) -> np.ndarray:
        """(n,) float32 at 16 kHz, about a second."""
        samples, _ = soundfile.read(self.recordings / "speech.wav", dtype="float32")
        return samples

    @cached_property
    def run(self) -> Path:
        """A run of two steps on the recordings."""
        from otreg.training import config_from_dict, train

        towers = (self.towers / "audio_tower", self.towers / "language_model")
        one = stage("align", objectives={"otreg": {"weight": 0.3}})
        manifest = self.recordings / "train.jsonl"
        train(config_from_dict(run_config(towers, manifest, [one])), self.root / "run", quiet=True)
        return self.root / "run"

    @cached_property
    def long_model(self) -> Path:
        """A model of random weights whose encoder takes 30 s."""
        from otreg.model import SpeechLMForConditionalGeneration, SpeechLMProcessor

        audio, text = self.root / "long_tower", self.towers / "language_model"
        config = WhisperConfig.from_pretrained(self.towers / "audio_tower")
        config.max_source_positions = 1500
        torch.manual_seed(0)
        WhisperEncoder(config).save_pretrained(audio)
        WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(audio)
        model = SpeechLMForConditionalGeneration.from_towers(
            audio, text, adapter_type="stack_mlp", adapter_stack=10
        )
        model.save_pretrained(self.root / "long")
        processor = SpeechLMProcessor.from_config(model.config, audio, text)
        processor.save_pretrained(self.root / "long")
        return self.root / "long"

    @cached_property
    def ctc(self) -> Path:
        """A CTC model of letters."""
        folder = self.root / "ctc"
        folder.mkdir()
        letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2} | {c: i for i, c in enumerate(letters, 3)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        torch.manual_seed(0)
        config = Wav2Vec2Config(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=[8, 8, 8],
            conv_kernel=[10, 8, 4],
            conv_stride=[10, 8, 4],
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            pad_token_id=0,
        )
        Wav2Vec2ForCTC(config).save_pretrained(folder)
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)
        extractor.save_pretrained(folder)
        return folder

    @cached_property
    def text_model(self) -> Path:
        """A BERT that knows the corpus's words."""
        folder = self.root / "bert"
        names = ["[PAD]", "[UNK]", *WORDS]
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
        )
        fast.save_pretrained(folder)
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = BertConfig(vocab_size=len(names), intermediate_size=32, **sizes)
        BertModel(config).save_pretrained(folder)
        return folder

    def family(self, name: str) -> Path:
        """A tiny model of a family, as tests/integrations has it."""
        from families_at_hand import ALL

        folder = self.root / "families" / name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            ALL[name].save(folder)
        return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _with_words(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row whose words share its time."""
    duration = soundfile.info(folder / row["audio"]).duration
    said = row["text"].split()
    ends = [round(duration * (number + 1) / len(said), 3) for number in range(len(said))]
    starts = [0.0, *ends[:-1]]
    times = zip(said, starts, ends, strict=True)
    return row | {"words": [{"word": w, "start_s": s, "end_s": e} for w, s, e in times]}
