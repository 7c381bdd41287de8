"""SpeechLMProcessor: audio and text to model inputs, and ids back to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer, BatchFeature, ProcessorMixin

from otreg.model.configuration import SpeechLMConfig, adapter_frame_plan
from otreg.model.features import SAMPLE_RATE_HZ, extract_features, num_feature_frames
from otreg.model.frames import Length, apply_frame_plan
from otreg.model.prompts import (
    DEFAULT_INSTRUCTION,
    DEFAULT_TEMPLATE,
    Prompt,
    chat_prompt,
    check_template,
    default_separator,
    encode,
    plain_prompt,
)


class SpeechLMProcessor(ProcessorMixin):
    """Feature extractor and tokenizer of a `SpeechLMForConditionalGeneration`.

    Build it with `from_config`, reload it with ``from_pretrained``.

    Args:
        feature_extractor: of the speech encoder.
        tokenizer: of the language model.
        encoder_frame_plan: (kernel, stride, padding) of the encoder's strided layers.
        adapter_stack: encoder frames per speech frame.
        audio_token_id: the placeholder for one speech frame.
        pad_token_id: fills input_ids; default the tokenizer's pad token, else eos.
        eos_token_id: ends a transcript; default the tokenizer's.
        prompt_template: text with {bos} {audio} {sep} {instruction} {language}. None = the
            tokenizer's chat template where it has one, else "{bos}{audio}{sep}".
        separator: for {sep}; default ``<asr>`` where that is a token, else a line break.
        instruction: for {instruction} and for the chat template, may hold {language} there.
        chat_template: of the processor itself (transformers' multimodal chat); not used here.

    Raises:
        ValueError: a feature extractor at another rate than 16 kHz, a bad template, no eos token.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        encoder_frame_plan: Sequence[Sequence[int]] = (),
        adapter_stack: int = 1,
        audio_token_id: int | None = None,
        pad_token_id: int | None = None,
        eos_token_id: int | None = None,
        prompt_template: str | None = None,
        separator: str | None = None,
        instruction: str = DEFAULT_INSTRUCTION,
        chat_template: str | None = None,
    ) -> None:
        rate = getattr(feature_extractor, "sampling_rate", SAMPLE_RATE_HZ)
        if rate != SAMPLE_RATE_HZ:
            raise ValueError(
                f"the feature extractor works at {rate} Hz, otreg at {SAMPLE_RATE_HZ} Hz: use an "
                "encoder trained at that rate"
            )
        self.encoder_frame_plan = [list(map(int, layer)) for layer in encoder_frame_plan]
        self.adapter_stack = adapter_stack
        self.audio_token_id = len(tokenizer) if audio_token_id is None else audio_token_id
        self.eos_token_id = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        if self.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no eos token to end transcripts; pass eos_token_id="
            )
        if pad_token_id is None:
            pad_token_id = tokenizer.pad_token_id
        self.pad_token_id = self.eos_token_id if pad_token_id is None else pad_token_id
        if prompt_template is not None:
            check_template(prompt_template)
        self.prompt_template = prompt_template
        self.separator = default_separator(tokenizer) if separator is None else separator
        self.instruction = instruction
        self._prompts: dict[str | None, Prompt] = {}
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_config(
        cls,
        config: SpeechLMConfig,
        feature_extractor: Any,
        tokenizer: Any,
        *,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> SpeechLMProcessor:
        """Build the processor of a model.

        Args:
            config: ``model.config``: frame plan, stack and token ids are taken from it.
            feature_extractor: an object, or the Hub id or folder of the encoder.
            tokenizer: an object, or the Hub id or folder of the language model.
            trust_remote_code: run code that comes with a checkpoint.
            options: prompt_template, separator, instruction.

        Returns:
            The processor.
        """
        if isinstance(feature_extractor, str | Path):
            feature_extractor = AutoFeatureExtractor.from_pretrained(
                feature_extractor, trust_remote_code=trust_remote_code
            )
        if isinstance(tokenizer, str | Path):
            tokenizer = AutoTokenizer.from_pretrained(
                tokenizer, trust_remote_code=trust_remote_code
            )
        return cls(
            feature_extractor,
            tokenizer,
            encoder_frame_plan=config.encoder_frame_plan,
            adapter_stack=config.adapter_stack,
            audio_token_id=config.audio_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
            **options,
        )

    @property
    def model_input_names(self) -> list[str]:
        """Names of what `__call__` returns for inference."""
        return ["input_ids", "attention_mask", "input_features", "input_features_mask"]

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Compute one utterance's features without padding; see `extract_features`."""
        return extract_features(self.feature_extractor, samples)

    def feature_length(self, num_samples: int) -> int:
        """Count the frames that `features` gives for that many samples, without the audio."""
        return num_feature_frames(self.feature_extractor, num_samples)

    def num_speech_frames(self, feature_length: Length) -> Length:
        """Count the speech frames (placeholders) of an utterance of that many feature frames."""
        return self.num_speech_frames_from_encoder(
            apply_frame_plan(feature_length, self.encoder_frame_plan)
        )

    def num_speech_frames_from_encoder(self, encoder_frames: Length) -> Length:
        """Count the speech frames of an utterance of that many encoder frames."""
        return apply_frame_plan(encoder_frames, adapter_frame_plan(self.adapter_stack))

    def prompt(self, language: str | None = None) -> Prompt:
        """Give the ids before and after the speech."""
        if language not in self._prompts:
            self._prompts[language] = self._build_prompt(language)
        return self._prompts[language]

    def _build_prompt(self, language: str | None) -> Prompt:
        if self.prompt_template is None and self.tokenizer.chat_template is not None:
            return chat_prompt(self.tokenizer, instruction=self.instruction, language=language)
        return plain_prompt(
            self.tokenizer,
            self.prompt_template or DEFAULT_TEMPLATE,
            separator=self.separator,
            instruction=self.instruction,
            language=language,
        )

    def tokenize_example(
        self, num_speech_frames: int, text: str | None = None, language: str | None = None
    ) -> dict[str, Any]:
        """Build the ids of one utterance.

        Args:
            num_speech_frames: placeholders, >= 1.
            text: transcript, None = a prompt to generate from.
            language: for {language} in the prompt.

        Returns:
            input_ids (prompt, transcript, eos), labels (-100 on the prompt) and text_ids (the
            transcript's ids alone, as they stand in input_ids); the last two None without text.

        Raises:
            ValueError: no speech frames, or a transcript without tokens.
        """
        if num_speech_frames < 1:
            raise ValueError(
                f"an utterance needs at least one speech frame; got {num_speech_frames}: the audio "
                "is too short for this encoder and adapter_stack"
            )
        prompt = self.prompt(language)
        ids = [*prompt.before, *[self.audio_token_id] * num_speech_frames, *prompt.after]
        if text is None:
            return {"input_ids": ids, "labels": None, "text_ids": None}
        text_ids = encode(self.tokenizer, text, special_tokens=False)
        if not text_ids:
            raise ValueError(f"the transcript {text!r} has no tokens; leave the utterance out")
        target = [*text_ids, self.eos_token_id]
        labels = [-100] * len(ids) + target
        return {"input_ids": ids + target, "labels": labels, "text_ids": text_ids}

    def __call__(  # type: ignore[override]
        self,
        audio: np.ndarray | Sequence[np.ndarray],
        text: str | Sequence[str] | None = None,
        language: str | Sequence[str | None] | None = None,
        *,
        return_tensors: str = "pt",
        padding_side: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Make a batch of audio, with transcripts to train on or without to generate from.

        Args:
            audio: one (samples,) array or a list of them: mono, 16 kHz.
            text: transcript of each, None = prompts alone.
            language: of each or of all, for {language} in the prompt.
            return_tensors: "pt", the only kind.
            padding_side: of the text; default "right" with transcripts, "left" without.
            sampling_rate: checked where given, in Hz.

        Returns:
            The collator's batch: input_ids, attention_mask (batch, tokens), input_features,
            input_features_mask (right-padded), and with text labels, text_ids, text_mask.

        Raises:
            ValueError: another sampling rate or kind of tensors, or lists of unequal length.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt'; got {return_tensors!r}")
        if sampling_rate not in (None, SAMPLE_RATE_HZ):
            raise ValueError(
                f"audio must be at {SAMPLE_RATE_HZ} Hz; got {sampling_rate}: resample it"
            )
        utterances = [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list(audio)
        texts = _one_each("text", text, len(utterances))
        languages = _one_each("language", language, len(utterances), share=True)
        features = [torch.from_numpy(self.features(samples)) for samples in utterances]
        examples = [
            self.tokenize_example(self.num_speech_frames(len(f)), t, lang)
            for f, t, lang in zip(features, texts, languages, strict=True)
        ]
        left = (padding_side or ("left" if text is None else "right")) == "left"
        batch = pad_ids([e["input_ids"] for e in examples], self.pad_token_id, left=left)
        data = {"input_ids": batch[0], "attention_mask": batch[1].long()}
        data["input_features"] = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        lengths = torch.tensor([len(f) for f in features])
        size = data["input_features"].shape[1]
        data["input_features_mask"] = torch.arange(size) < lengths[:, None]
        if text is not None:
            data["labels"] = pad_ids([e["labels"] for e in examples], -100, left=left)[0]
            text_ids = [e["text_ids"] for e in examples]
            data["text_ids"], data["text_mask"] = pad_ids(text_ids, self.pad_token_id, left=False)
        return BatchFeature(data)

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """Turn the ids of one sequence into text; special tokens and placeholders are left out."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else list(token_ids)
        ids = [i for i in ids if i != self.audio_token_id]
        return self.tokenizer.decode(ids, **{"skip_special_tokens": True, **kwargs})

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Turn many sequences into text, each as `decode` does."""
        return [self.decode(ids, **kwargs) for ids in sequences]


def pad_ids(
    rows: Sequence[Sequence[int]], value: int, *, left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad lists of ids to one length.

    Args:
        rows: ids of each row.
        value: fills the rest.
        left: pad on the left.

    Returns:
        (batch, longest) long, and the bool mask of what is real.
    """
    size = max(len(row) for row in rows)
    ids = torch.full((len(rows), size), value)
    mask = torch.zeros(len(rows), size, dtype=torch.bool)
    for i, row in enumerate(rows):
        columns = slice(size - len(row), size) if left else slice(0, len(row))
        ids[i, columns] = torch.tensor(row, dtype=torch.long)
        mask[i, columns] = True
    return ids, mask


def _one_each(name: str, values: Any, count: int, *, share: bool = False) -> list[Any]:
    if values is None or (share and isinstance(values, str)):
        return [values] * count
    values = [values] if isinstance(values, str) else list(values)
    if len(values) != count:
        raise ValueError(f"got {count} audio but {len(values)} {name}; give one {name} per audio")
    return values
