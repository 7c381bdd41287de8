"""SpeechLMProcessor: audio and text to model inputs, and ids back to text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import AutoFeatureExtractor, AutoTokenizer, BatchFeature, ProcessorMixin

from otreg.data.collate import SpeechTextCollator
from otreg.data.dataset import Example
from otreg.data.segments import Clip, Row, Segment
from otreg.model.configuration import SpeechLMConfig, adapter_frame_plan
from otreg.model.conversation import Messages, check_options, prompt_examples
from otreg.model.features import (
    SAMPLE_RATE_HZ,
    check_samples,
    extract_features,
    num_feature_frames,
)
from otreg.model.frames import Length, apply_frame_plan
from otreg.model.prompts import (
    DEFAULT_INSTRUCTION,
    DEFAULT_TEMPLATE,
    Prompt,
    check_template,
    default_separator,
    encode,
    plain_prompt,
    separator_ids,
)
from otreg.model.rendering import (
    RenderedRow,
    render_chat,
    render_document,
    render_plain,
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

    # transformers reads the code object of __init__, which mutmut replaces by a wrapper's.
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
    ) -> None:  # pragma: no mutate block
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
        return ["input_ids", "attention_mask", "input_features", "input_features_mask", "clips"]

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

    def tokenize_row(self, row: Row, num_frames: Sequence[int]) -> dict[str, Any]:
        """Build the ids of one row.

        A "transcribe" row is put into the prompt: the prompt template, or else the language model's
        chat template with the instruction behind the speech, or else "{bos}{audio}{sep}".

        Args:
            row: see `otreg.data.segments`; without its answer to generate from.
            num_frames: placeholders of each of its clips, >= 1.

        Returns:
            input_ids; labels (the id where supervised, else -100); clips, (first position, number
            of placeholders) of each; text_ids, each clip's transcript as ids.

        Raises:
            ValueError: a clip without speech frames, an answer without tokens, or a chat template
                that does not show the messages as they are.
        """
        if len(row.clips) != len(num_frames):
            raise ValueError(f"the row has {len(row.clips)} clips, got {len(num_frames)} lengths")
        out = RenderedRow(self.audio_token_id)
        has_template = self.tokenizer.chat_template is not None
        if row.kind == "document":
            render_document(self.tokenizer, row, num_frames, out, eos_token_id=self.eos_token_id)
        elif row.kind == "transcribe" and (self.prompt_template is not None or not has_template):
            self._transcribe(row, num_frames[0], out)
        elif has_template:
            row = self._with_instruction(row) if row.kind == "transcribe" else row
            render_chat(self.tokenizer, row, num_frames, out, self.eos_token_id)
        else:
            separator = separator_ids(self.tokenizer, self.separator)
            render_plain(
                self.tokenizer,
                row,
                num_frames,
                out,
                separator=separator,
                eos_token_id=self.eos_token_id,
            )
        return out.as_dict()

    def _transcribe(self, row: Row, num_frames: int, out: RenderedRow) -> None:
        """The plain prompt around one clip, and its transcript."""
        language = row.language or None
        if language not in self._prompts:
            self._prompts[language] = plain_prompt(
                self.tokenizer,
                self.prompt_template or DEFAULT_TEMPLATE,
                separator=self.separator,
                instruction=self.instruction,
                language=language,
                eos_token_id=self.eos_token_id,
            )
        prompt = self._prompts[language]
        text = row.clips[0].text
        text_ids = encode(self.tokenizer, text, special_tokens=False)
        out.add(prompt.before)
        out.add_clip(num_frames, text_ids)
        out.add(prompt.after)
        if row.segments[-1].supervised:
            if not text_ids:
                raise ValueError(f"the transcript {text!r} has no tokens; leave the row out")
            out.add([*text_ids, *prompt.closing], supervised=True)

    def _with_instruction(self, row: Row) -> Row:
        """A "transcribe" row as a chat: the speech, a line break and the instruction."""
        instruction = self.instruction.replace("{language}", row.language)
        audio, *answer = row.segments
        asked = (audio, Segment("text", f"\n{instruction}", "user"), *answer)
        return dataclasses.replace(row, kind="chat", segments=asked)

    def __call__(  # type: ignore[override]
        self,
        audio: np.ndarray | Sequence[np.ndarray],
        text: str | Sequence[str] | None = None,
        language: str | Sequence[str | None] | None = None,
        *,
        return_tensors: str = "pt",
        padding_side: Literal["left", "right"] | None = None,
        sampling_rate: int | None = None,
        **unknown: Any,
    ) -> BatchFeature:
        """Make a batch of audio, with transcripts to train on or without to generate from.

        Args:
            audio: one (samples,) array or a list of them: mono, 16 kHz, of any floating type, in
                [-1, 1].
            text: transcript of each, None = prompts alone.
            language: of each or of all, for {language} in the prompt.
            return_tensors: "pt", the only kind.
            padding_side: of the text; default "right" with transcripts, "left" without.
            sampling_rate: checked where given, in Hz.
            unknown: refused.

        Returns:
            The collator's batch: input_ids, attention_mask (batch, tokens), input_features,
            input_features_mask (right-padded), clips, and with text labels, text_ids, text_mask.

        Raises:
            ValueError: another sampling rate or kind of tensors, lists of unequal length, an
                argument that is not listed here, or audio that `check_samples` refuses.
        """
        if unknown:
            raise ValueError(
                f"this processor takes no {', '.join(sorted(unknown))}: it makes batches of audio and "
                "transcripts; to generate by pipeline('any-to-any'), pass chat messages as text="
            )
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt'; got {return_tensors!r}")
        if sampling_rate not in (None, SAMPLE_RATE_HZ):
            raise ValueError(
                f"audio must be at {SAMPLE_RATE_HZ} Hz; got {sampling_rate}: resample it"
            )
        clips = [check_samples(audio)] if isinstance(audio, np.ndarray) else list(audio)
        texts = _one_each("text", text, len(clips))
        languages = _one_each("language", language, len(clips), share=True)
        examples: list[Example] = [
            {"row": _row_of(number, spoken, tongue), "input_features": [self.features(samples)]}
            for number, (samples, spoken, tongue) in enumerate(
                zip(clips, texts, languages, strict=True)
            )
        ]
        side = padding_side or ("left" if text is None else "right")
        collator = SpeechTextCollator(self, padding_side=side, training=text is not None)
        return BatchFeature(collator(examples))

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Messages | Sequence[Messages], **options: Any
    ) -> BatchFeature:
        """Make a batch to generate from, of chat messages with audio in them.

        Args:
            conversation: see `otreg.model.conversation.prompt_examples`: one, or a list of them.
            options: those of transformers, each with its only value here: see
                `otreg.model.conversation.check_options`.

        Returns:
            The collator's batch: left-padded input_ids, attention_mask, and the audio.

        Raises:
            ValueError: as `prompt_examples` and `check_options`.
        """
        check_options(options)
        collator = SpeechTextCollator(self, padding_side="left", training=False)
        return BatchFeature(collator(prompt_examples(self, conversation)))

    def decode(self, token_ids: Any, **kwargs: Any) -> str:
        """Turn the ids of one sequence into text; special tokens and placeholders are left out."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else list(token_ids)
        ids = [i for i in ids if i != self.audio_token_id]
        return self.tokenizer.decode(ids, **{"skip_special_tokens": True, **kwargs})

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Turn many sequences into text, each as `decode` does."""
        return [self.decode(ids, **kwargs) for ids in sequences]


def _row_of(number: int, text: str | None, language: str | None) -> Row:
    """A "transcribe" row of audio that is in memory."""
    clip = Clip(str(number), Path(), text or "", language or "")
    segments = [Segment("audio", clip, "user")]
    if text is not None:
        segments.append(Segment("text", text, "assistant", supervised=True))
    return Row(str(number), "transcribe", tuple(segments), language or "")


def _one_each(name: str, values: Any, count: int, *, share: bool = False) -> list[Any]:
    if values is None or (share and isinstance(values, str)):
        return [values] * count
    values = [values] if isinstance(values, str) else list(values)
    if len(values) != count:
        raise ValueError(f"got {count} audio but {len(values)} {name}; give one {name} per audio")
    return values
