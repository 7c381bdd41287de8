"""Tiny random towers, saved to disk in Hugging Face format and loaded offline."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

TEXTS = ["the cat sat on the mat", "a dog ran home", "el perro corre a casa", "die katze schläft"]
WAV = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=[8, 8, 8],
    conv_kernel=[10, 8, 4],
    conv_stride=[10, 8, 4],
    num_feat_extract_layers=3,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    layerdrop=0.0,
    mask_time_prob=0.0,
)
ENCODERS = {
    "whisper": {},
    "whisper-short": {},
    "wav2vec2": dict(WAV, feat_extract_norm="layer", do_stable_layer_norm=True),
    "wav2vec2-group": dict(WAV, feat_extract_norm="group"),
    "wav2vec2-adapter": dict(
        WAV,
        feat_extract_norm="layer",
        add_adapter=True,
        num_adapter_layers=1,
        output_hidden_size=16,
    ),
    "hubert": dict(WAV, feat_extract_norm="layer", do_stable_layer_norm=True),
    "hubert-group": dict(WAV, feat_extract_norm="group"),
    "wavlm": dict(WAV, feat_extract_norm="layer", num_buckets=16, max_bucket_distance=32),
    "wav2vec2-bert": dict(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        feature_projection_input_dim=160,
        conv_depthwise_kernel_size=5,
        layerdrop=0.0,
        mask_time_prob=0.0,
    ),
}
LLAMA = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
LANGUAGE_MODELS = {
    "qwen2": dict(LLAMA, tie_word_embeddings=True),
    "qwen3": dict(LLAMA, head_dim=8),
    "llama": dict(LLAMA),
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "mistral": dict(LLAMA, sliding_window=None),
    "gemma2": dict(
        LLAMA,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=256,
        tie_word_embeddings=False,
    ),
    "opt": dict(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    ),
    "bloom": dict(hidden_size=32, n_layer=2, n_head=4),
    "gpt_neox": dict(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    ),
}
CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def make_tokenizer(*, asr=True, chat=False):
    specials = ["<pad>", "<s>", "</s>", *(["<asr>"] if asr else [])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def save_language_model(kind, folder: Path, *, seed=0, chat=False):
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(chat=chat)
    config = AutoConfig.for_model(
        kind,
        **LANGUAGE_MODELS[kind],
        vocab_size=len(tokenizer),
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # large random weights, so that greedy decoding depends on the speech
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_audio_tower(kind, folder: Path, *, seed=0):
    torch.manual_seed(seed)
    if kind.startswith("whisper"):
        config = WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            num_mel_bins=20,
            max_source_positions=100,
            vocab_size=60,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        # Two seconds instead of thirty; the full checkpoint, decoder and all, for one of the two.
        extractor = WhisperFeatureExtractor(feature_size=20, chunk_length=2)
        model = AutoModel.from_config(config) if kind == "whisper" else WhisperEncoder(config)
    else:
        family = "wav2vec2-bert" if kind == "wav2vec2-bert" else kind.split("-")[0]
        model = AutoModel.from_config(AutoConfig.for_model(family, **ENCODERS[kind]))
        if family == "wav2vec2-bert":
            extractor = SeamlessM4TFeatureExtractor()
        else:
            extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


def make_audio(*durations_s, seed=0):
    rng = np.random.default_rng(seed)
    clips = []
    for duration in durations_s:
        time = np.arange(round(duration * 16_000)) / 16_000
        tone = np.sin(2 * np.pi * rng.uniform(100, 800) * time * (1 + 0.3 * time))
        clips.append((0.3 * tone + 0.05 * rng.standard_normal(len(time))).astype(np.float32))
    return clips
