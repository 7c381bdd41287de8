"""Start-time errors of word times, source by source: CTC, our transport plan, and the even control.

    python benchmarks/word_times.py demo-out/corpora/train.jsonl TEST.jsonl --run RUN --out runs/words

TRAIN and TEST are manifests with exact words, as `otreg.synthetic` writes them; RUN is a run of
`otreg train`. Trains a small Hugging Face model for CTC (Wav2Vec2-BERT's architecture, from nothing)
on TRAIN, then calls `otreg prepare words` on TEST by it and by RUN, and prints one table. The audio
must lie below TEST's folder, or --root given.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import torch
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2CTCTokenizer,
)

from otreg.cli import main as otreg
from otreg.data.audio import load_audio
from otreg.data.manifest import read_manifest


def train_ctc(manifest: Path, root: Path | None, out: Path, *, epochs: int, seed: int) -> None:
    """Train on characters, 20 ms a frame, and save model, extractor and tokenizer."""
    rows = read_manifest(manifest, root=root)
    out.mkdir(parents=True, exist_ok=True)
    letters = sorted({c for row in rows for c in row.text if not c.isspace()})
    vocabulary = ["<pad>", "<unk>", "|", *letters]
    (out / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(vocabulary)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(out / "vocab.json"))
    extractor = SeamlessM4TFeatureExtractor()
    torch.manual_seed(seed)
    model = Wav2Vec2BertForCTC(
        Wav2Vec2BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=144,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=576,
            conv_depthwise_kernel_size=15,
            layerdrop=0.0,
            mask_time_prob=0.0,
            pad_token_id=0,
            ctc_loss_reduction="mean",
            ctc_zero_infinity=True,
        )
    )
    features = [
        extractor(load_audio(row), sampling_rate=16_000, return_tensors="pt") for row in rows
    ]
    inputs = [f["input_features"][0][f["attention_mask"][0].bool()] for f in features]
    labels = [torch.tensor(tokenizer(row.text)["input_ids"]) for row in rows]
    order = random.Random(seed)
    batches = []
    for _ in range(epochs):
        by_length = sorted(range(len(rows)), key=lambda i: len(inputs[i]) + 20 * order.random())
        epoch = [by_length[first : first + 16] for first in range(0, len(rows), 16)]
        order.shuffle(epoch)
        batches += epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, len(batches), pct_start=0.1)
    model.train()
    for step, batch in enumerate(batches):
        padded = torch.nn.utils.rnn.pad_sequence([inputs[i] for i in batch], batch_first=True)
        lengths = torch.tensor([len(inputs[i]) for i in batch])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        targets = torch.nn.utils.rnn.pad_sequence(
            [labels[i] for i in batch], batch_first=True, padding_value=-100
        )
        loss = model(input_features=padded, attention_mask=mask, labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == len(batches) - 1:
            print(f"step {step + 1} of {len(batches)}: CTC loss {loss.item():.3f}", file=sys.stderr)
    for part in (model.eval(), extractor, tokenizer):
        part.save_pretrained(out)


def main() -> int:
    """Parse, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--run", type=Path, action="append", required=True, help="repeatable")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ctc = options.out / "ctc"
    if not (ctc / "model.safetensors").is_file():
        train_ctc(options.train, options.root, ctc, epochs=options.epochs, seed=options.seed)
    root = options.root or options.test.parent
    common = ["--root", str(root), "--replace", "--skip", "--overwrite", "--quiet"]
    command = ["prepare", "words", str(options.test), *common]
    beside: list[str] = []
    for run in options.run:
        made = options.out / f"{options.test.stem}.{run.name}.jsonl"
        if otreg([*command, "--out", str(made), "--model", str(run)]):
            return 1
        beside += ["--beside", f"{run.name}={made}"]
    made = options.out / f"{options.test.stem}.ctc.jsonl"
    against = ["--against", str(options.test), *beside]
    return otreg([*command, "--out", str(made), "--ctc", str(ctc), *against])


if __name__ == "__main__":
    sys.exit(main())
