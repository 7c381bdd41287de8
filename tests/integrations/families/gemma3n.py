"""Gemma 3n: a causal conformer of one row per 160 ms, always 188 placeholders, per-layer embeddings.

Its ids lie in three ranges: text, vision and audio. Ids of the last two have tables of their own, so a text
row need not be the row of `embed_tokens`. The image tower of its checkpoints needs timm; `NoVision` stands
in its place.

Batch is not single. The features of an utterance lose up to three mel frames where it is the longest of its
batch, so one of five utterances has a row more beside a longer one; `num_rows` is that of the utterance
alone. The convolutions read mel frames behind the audio: padding in a batch, zeros alone. Losses here differ
by up to 5e-4.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    Gemma3nVisionConfig,
    GemmaTokenizer,
    PreTrainedModel,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from families.base import TEXTS, ReadFamily, save_random
from families.chat import chat_batch, chat_prompt

NUM_PLACEHOLDERS = 188
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<audio_soft_token>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
NUM_MEL_BINS = 32


class NoVision(PreTrainedModel):
    """An image tower without weights."""

    config_class = Gemma3nVisionConfig

    def __init__(self, config: Gemma3nVisionConfig) -> None:
        super().__init__(config)
        self.post_init()


def gemma_tokenizer(
    special_tokens: dict[str, str], turn_tokens: tuple[str, str], chat_template: str
) -> GemmaTokenizer:
    """Gemma's tokenizer, trained on the tests' transcripts; the special tokens are last, in their order."""
    corpus = [*TEXTS, "user", "model", "Transcribe.", "\n", "\n\n"]
    # It does not split at spaces: a larger vocabulary would hold whole transcripts.
    tokenizer = GemmaTokenizer().train_new_from_iterator([corpus], vocab_size=60)
    tokenizer.add_tokens([*turn_tokens, *special_tokens.values()], special_tokens=True)
    tokenizer._set_model_specific_special_tokens(special_tokens)
    tokenizer.chat_template = chat_template
    return tokenizer


def save(folder: Path) -> None:
    tokenizer = gemma_tokenizer(
        {
            "boi_token": "<start_of_image>",
            "boa_token": "<start_of_audio>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "eoa_token": "<end_of_audio>",
            "audio_token": "<audio_soft_token>",
        },
        ("<start_of_turn>", "<end_of_turn>"),
        CHAT_TEMPLATE,
    )
    vision_offset, audio_offset = tokenizer.eoi_token_id, tokenizer.eoa_token_id
    config = Gemma3nConfig(
        text_config={
            "vocab_size": audio_offset + 8,
            "vocab_size_per_layer_input": vision_offset,
            "hidden_size": 32,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_kv_shared_layers": 0,
            "altup_num_inputs": 2,
            "laurel_rank": 4,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.convert_tokens_to_ids("<end_of_turn>"),
        },
        audio_config={
            "vocab_size": 8,
            "vocab_offset": audio_offset,
            "input_feat_size": NUM_MEL_BINS,
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": [4, 4],
        },
        vision_config={
            "vocab_size": audio_offset - vision_offset,
            "vocab_offset": vision_offset,
            "hidden_size": 16,
        },
        audio_soft_tokens_per_image=NUM_PLACEHOLDERS,
        **{
            f"{name}_id": getattr(tokenizer, f"{name}_id")
            for name in ("boi_token", "eoi_token", "image_token", "boa_token", "eoa_token")
        },
        audio_token_id=tokenizer.audio_token_id,
    )
    AutoModel.register(Gemma3nVisionConfig, NoVision, exist_ok=True)
    processor = Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(feature_size=NUM_MEL_BINS),
        image_processor=SiglipImageProcessorPil(),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        audio_seq_length=NUM_PLACEHOLDERS,
    )
    save_random(folder, Gemma3nForConditionalGeneration, config, processor)


def load(folder: Path) -> tuple[Any, Any]:
    AutoModel.register(Gemma3nVisionConfig, NoVision, exist_ok=True)
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def num_rows(num_samples: int) -> int:
    padded = -(-num_samples // 128) * 128  # the feature extractor's multiple
    mel_frames = (padded - 513) // 160 + 1  # 32 ms and a sample each, hop 10 ms
    return -(-mel_frames // 16)  # two convolutions of stride 2, then every fourth row


FAMILY = ReadFamily(
    name="Gemma 3n",
    model_type="gemma3n",
    save=save,
    load=load,
    batch=partial(chat_batch, request="Transcribe.", end="<end_of_turn>\n"),
    prompt=partial(chat_prompt, request="Transcribe."),
    num_rows=num_rows,
    num_placeholders=lambda num_samples: NUM_PLACEHOLDERS,
)
