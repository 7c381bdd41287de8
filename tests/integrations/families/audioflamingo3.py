"""Audio Flamingo 3: Whisper's encoder over windows of fixed length, pooled by two, an MLP, Qwen2.

The window is 4 s here and 30 s in the checkpoints; longer audio fills several, up to 10 minutes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    WhisperFeatureExtractor,
)

from families.base import ReadFamily, save_random
from families.chat import chat_batch, chat_prompt
from families.qwen2_audio import (
    NUM_MEL_BINS,
    TINY_WHISPER,
    WINDOW_S,
    byte_tokenizer,
    num_rows,
    text_config,
)

REQUEST = "Transcribe the input speech."  # the processor's default_transcription_prompt
CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<sound>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save(folder: Path) -> None:
    tokenizer = byte_tokenizer("<|im_start|>", "<sound>", eos_token="<|im_end|>")
    config = AudioFlamingo3Config(
        audio_config=TINY_WHISPER,
        text_config=text_config(tokenizer),
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    extractor = WhisperFeatureExtractor(feature_size=NUM_MEL_BINS, chunk_length=WINDOW_S)
    processor = AudioFlamingo3Processor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    save_random(folder, AudioFlamingo3ForConditionalGeneration, config, processor)


def load(folder: Path) -> tuple[Any, Any]:
    return AutoModelForSeq2SeqLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


FAMILY = ReadFamily(
    name="Audio Flamingo 3",
    model_type="audioflamingo3",
    save=save,
    load=load,
    batch=partial(chat_batch, request=REQUEST, end="<|im_end|>\n"),
    prompt=partial(chat_prompt, request=REQUEST),
    num_rows=num_rows,
)
