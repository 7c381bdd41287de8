"""What the objectives cost beside a training step at real size: FLOPs, bytes and peak memory.

    python benchmarks/real_size.py                       # minutes: "all" scores 152,064 rows on a CPU
    python benchmarks/real_size.py --settings step,8192  # a minute

The model (a Whisper-large-v3 encoder, frozen; the adapter of five stacked frames; a language model of
Qwen2-7B's sizes with LoRA) runs forward and backward on fake tensors: no weights are made. The
objectives run on real ones, forward and backward, against a real bfloat16 table, each in a process of
its own, whose highest resident memory above its inputs is told (Linux only). The transport's own
operations, which no counter of torch sees, are the measured sweeps times four operations a cell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _counting import Counter, forget_peak, resident_bytes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from otreg import CTC, OTReg, SpeechTextPair

ENCODER_FRAMES_PER_S = 50
STACK = 5
TOKENS_PER_S = 3
PROMPT_TOKENS = 20
PAD_ID = 0
OPERATIONS_PER_CELL = 4  # of a sweep: K v and K' u, a product and a sum each
OTHER_OPERATIONS_PER_CELL = 20  # around the sweeps: the kernel's exponential, the plan, its cost
OTHER_PASSES = 6  # over the cells, around the sweeps

SIZES: dict[str, dict[str, Any]] = {
    "real": {
        "whisper": {
            "num_mel_bins": 128,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "d_model": 1280,
        },
        "language_model": {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
    },
    "tiny": {
        "whisper": {
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
        },
        "language_model": {
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    },
}


def build_model(size: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Encoder, adapter and language model without weights; what trains asks for a gradient."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from otreg.model.adapters import StackMLPAdapter
    from otreg.model.lora import default_targets, inject_lora

    whisper, language_model = SIZES[size]["whisper"], SIZES[size]["language_model"]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            encoder = WhisperEncoder(WhisperConfig(**whisper)).eval().requires_grad_(False)
            config = Qwen2Config(**language_model, tie_word_embeddings=False, use_cache=False)
            model = Qwen2ForCausalLM(config).requires_grad_(False)
            targets = default_targets(model)
            options = {"r": 8, "alpha": 16, "dropout": 0.0, "target_modules": targets}
            inject_lora(model, options)
            dim = config.hidden_size
            adapter = StackMLPAdapter(whisper["d_model"], dim, stack=STACK, hidden_size=dim)
    finally:
        torch.set_default_dtype(before)
    return encoder, adapter, model


def fake(module: nn.Module) -> None:
    """Put fake CPU tensors where the module's meta tensors are."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype)
                part._parameters[name] = nn.Parameter(empty, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype)


def model_step(size: str, batch: int, seconds: int) -> dict[str, int]:
    """FLOPs and bytes of one training step, forward and backward, without the optimiser."""
    encoder, adapter, model = build_model(size)
    config = SIZES[size]
    frames, tokens = ENCODER_FRAMES_PER_S * seconds, TOKENS_PER_S * seconds
    with FakeTensorMode():
        for module in (encoder, adapter, model):
            fake(module)
        mel = torch.empty(batch, config["whisper"]["num_mel_bins"], 3000, dtype=torch.bfloat16)
        ids = torch.zeros(batch, PROMPT_TOKENS + tokens, dtype=torch.long)
        with Counter() as counter:
            with torch.no_grad():
                hidden = encoder(mel).last_hidden_state[:, :frames]  # encoded as 30 s, then cut
            mask = torch.ones(batch, frames, dtype=torch.bool)
            speech, _ = adapter(hidden, mask)
            text = model.get_input_embeddings()(ids)
            before, after = text.split([PROMPT_TOKENS, tokens], dim=1)
            embeds = torch.cat([before, speech.to(text.dtype), after], 1)
            logits = model(inputs_embeds=embeds).logits.float()
            labels = torch.zeros(batch * (logits.shape[1] - 1), dtype=torch.long)
            nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels).backward()
    return {"flops": counter.flops, "bytes": counter.bytes}


def make_pair(size: str, batch: int, seconds: int) -> SpeechTextPair:
    """Speech that says its transcript, noisily, against a random table of the real size."""
    config = SIZES[size]["language_model"]
    vocab, dim = config["vocab_size"], config["hidden_size"]
    frames, tokens = ENCODER_FRAMES_PER_S * seconds // STACK, TOKENS_PER_S * seconds
    table = torch.empty(vocab, dim, dtype=torch.bfloat16)
    for start in range(0, vocab, 4096):  # no copy of it in another dtype
        part = table[start : start + 4096]
        part.copy_(0.02 * torch.randn(part.shape))
    step = torch.randint(PAD_ID + 1, vocab, (2 * batch, tokens))  # two micro-batches
    ids = step[:batch]
    said = ids[:, torch.arange(frames) * tokens // frames]
    speech = table[said]
    speech.add_(0.03 * torch.randn(speech.shape))
    return SpeechTextPair(
        speech.requires_grad_(),
        table[ids],
        token_ids=ids,
        pad_embedding=table[PAD_ID],
        embedding_table=table,
        pad_token_id=PAD_ID,
        step_ids=step.unique(),
        draw_seed=0,
    )


def objective_step(
    name: str, setting: str | int, size: str, batch: int, seconds: int
) -> dict[str, float]:
    """FLOPs, bytes, peak memory and time of an objective's forward and backward pass."""
    torch.manual_seed(0)
    objective: Any = {"otreg": OTReg, "ctc": CTC}[name](vocabulary=setting)
    with Counter():  # libraries are loaded and threads started
        objective(make_pair("tiny", 2, 5)).loss.sum().backward()
    pair = make_pair(size, batch, seconds)
    forget_peak()
    before, start = resident_bytes("VmRSS"), time.perf_counter()
    with Counter() as counter:
        out = objective(pair)
        out.loss.sum().backward()
    taken, peak = time.perf_counter() - start, resident_bytes("VmHWM") - before
    flops, moved = counter.flops, counter.bytes
    figures: dict[str, float] = {"seconds": taken, "peak": peak}
    if out.plan is not None:
        cells = pair.speech_mask.sum(1) * out.targets.mask.sum(1)
        solved = transport(cells, out.terms["iterations"], pair.speech.shape[2])
        flops += solved["flops"]
        moved += solved["bytes"]
        figures |= {f"transport_{key}": value for key, value in solved.items()}
    assert pair.embedding_table is not None
    table = pair.embedding_table.numel() * pair.embedding_table.element_size()
    return figures | {"flops": flops, "bytes": moved, "table": table}


def transport(cells: Tensor, sweeps: Tensor, dim: int) -> dict[str, float]:
    """Operations of the transport problems: the cells' cosines, the sweeps, and what is around them."""
    per_cell = OPERATIONS_PER_CELL * sweeps + OTHER_OPERATIONS_PER_CELL
    return {
        "sweeps": float(sweeps.mean()),
        "flops": int((cells * per_cell).sum() + 2 * dim * cells.sum()),
        "bytes": int((4 * cells * (sweeps + OTHER_PASSES)).sum()),
    }


def settings_of(text: str) -> list[str | int]:
    """all,step,8192 -> ["all", "step", 8192]."""
    return [int(part) if part.isdecimal() else part for part in text.split(",")]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the figures as Markdown, shares in percent of the model's step and of the table."""
    print(
        "| speech | objective | vocabulary | FLOPs % | bytes % | peak MB | of the table % | seconds |"
    )
    print("|" + "---|" * 8)
    for row in rows:
        print(
            f"| {row['speech_s']} s | {row['objective']} | {row['vocabulary']} "
            f"| {100 * row['flops'] / row['step_flops']:.3f} "
            f"| {100 * row['bytes'] / row['step_bytes']:.3f} | {row['peak'] / 1e6:.0f} "
            f"| {100 * row['peak'] / row['table']:.1f} | {row['seconds']:.1f} |"
        )
    print("\n| speech | step, TFLOP | step, GB | transport, FLOPs % | bytes % | sweeps |")
    print("|" + "---|" * 6)
    seen = set()
    for row in rows:
        if "transport_flops" in row and row["speech_s"] not in seen:
            seen.add(row["speech_s"])
            print(
                f"| {row['speech_s']} s | {row['step_flops'] / 1e12:.1f} "
                f"| {row['step_bytes'] / 1e9:.0f} "
                f"| {100 * row['transport_flops'] / row['step_flops']:.5f} "
                f"| {100 * row['transport_bytes'] / row['step_bytes']:.5f} "
                f"| {row['transport_sweeps']:.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="real")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--speech", default="5,15,30", help="seconds, separated by commas")
    parser.add_argument("--settings", default="step,2048,8192,16384,all", help="of vocabulary")
    parser.add_argument("--objectives", default="otreg,ctc")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", action="store_true", help="one objective, in this process")
    arguments = parser.parse_args()
    lengths = [int(part) for part in arguments.speech.split(",")]
    settings = settings_of(arguments.settings)
    names = arguments.objectives.split(",")
    if arguments.alone:
        shape = (arguments.size, arguments.batch, lengths[0])
        print(json.dumps(objective_step(names[0], settings[0], *shape)))
        return
    rows = []
    for length in lengths:
        step = model_step(arguments.size, arguments.batch, length)
        for name in names:
            for setting in settings:
                command = [sys.executable, __file__, "--alone", "--size", arguments.size]
                command += ["--batch", str(arguments.batch), "--speech", str(length)]
                command += ["--objectives", name, "--settings", str(setting)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row: dict[str, Any] = {"speech_s": length, "objective": name, "vocabulary": setting}
                row |= json.loads(done.stdout)
                rows.append(row | {f"step_{key}": value for key, value in step.items()})
                print(f"{length} s, {name}, {setting}", file=sys.stderr)
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
