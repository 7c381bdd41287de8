"""Real human speech: strings of spoken digits, each of three speakers held out in turn.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset
    python benchmarks/digits.py free-spoken-digit-dataset --out runs/digits

Reads the single digits of the Free Spoken Digit Dataset (Jackson et al., CC BY-SA 4.0), joins takes
of two speakers into strings to train on and takes of the third into strings to test on, then calls
what the README documents: `otreg miniature`, `otreg train configs/digits.yaml`, `otreg evaluate`,
once with OTReg and once with its weight 0. Prints one table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from otreg.data.manifest import Utterance, write_manifest

ROOT = Path(__file__).parents[1]
ARMS = {"base": "0", "otreg": None}
HELD_OUT_TAKES = 5  # of each digit and training speaker, for the in-domain test
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Takes = dict[tuple[str, str], list[Utterance]]


def read_digits(fsdd: Path, speakers: list[str]) -> list[Utterance]:
    """The takes of some speakers, from the names recordings/<digit>_<speaker>_<take>.wav."""
    takes = []
    for path in sorted((fsdd / "recordings").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        if speaker in speakers:
            takes.append(Utterance(path.stem, path.resolve(), DIGITS[int(digit)], "en", speaker))
    missing = sorted(set(speakers) - {take.speaker for take in takes})
    if missing:
        raise SystemExit(f"{fsdd}/recordings holds no take of {', '.join(missing)}")
    return takes


def join_strings(
    takes: Takes, speakers: list[str], count: int, out: Path, rng: random.Random
) -> Path:
    """Write `count` strings of 3 to 7 digits, each by one speaker; return their manifest."""
    digits = sorted({text for _, text in takes})
    utterances = []
    (out / "audio").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        speaker = rng.choice(speakers)
        words = [rng.choice(digits) for _ in range(rng.randint(3, 7))]
        pieces: list[np.ndarray] = []
        for word in words:
            samples, rate = soundfile.read(rng.choice(takes[speaker, word]).audio, dtype="float32")
            pause = np.zeros(int(rng.uniform(0.02, 0.25) * rate), dtype=np.float32)
            pieces += [pause, samples]
        path = out / "audio" / f"{number:05d}.wav"
        soundfile.write(path, np.concatenate([*pieces, pause]), rate)
        name = f"{out.name}-{number:05d}"
        utterances.append(Utterance(name, path, " ".join(words), "en", speaker))
    write_manifest(out / "manifest.jsonl", utterances)
    return out / "manifest.jsonl"


def otreg(*arguments: object) -> None:
    """Run an otreg command, as a user would."""
    subprocess.run(
        [Path(sys.executable).with_name("otreg"), *map(str, arguments)], check=True, cwd=ROOT
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fsdd", type=Path, help="a clone of the data set")
    parser.add_argument("--speakers", nargs="+", default=["jackson", "nicolas", "theo"])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--train", type=int, default=1500, help="strings to train on")
    parser.add_argument("--test", type=int, default=200, help="strings in each test")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    out = arguments.out.resolve()
    speakers = sorted(arguments.speakers)
    spoken = read_digits(arguments.fsdd, speakers)
    table = []
    for held_out in speakers:
        rng = random.Random(held_out)
        train, in_domain, test = defaultdict(list), defaultdict(list), defaultdict(list)
        for utterance in spoken:
            key = (str(utterance.speaker), utterance.text)
            if utterance.speaker == held_out:
                test[key].append(utterance)
            elif len(in_domain[key]) < HELD_OUT_TAKES:
                in_domain[key].append(utterance)
            else:
                train[key].append(utterance)
        folder = out / held_out
        others = [s for s in speakers if s != held_out]
        manifests = {
            name: join_strings(takes, who, count, folder / name, rng)
            for name, takes, who, count in (
                ("train", train, others, arguments.train),
                ("heard", in_domain, others, arguments.test),
                ("unheard", test, [held_out], arguments.test),
            )
        }
        otreg("miniature", manifests["train"], "--out", folder / "towers")
        for seed in range(arguments.seeds):
            for arm, weight in ARMS.items():
                run = folder / f"{arm}-seed{seed}"
                otreg(
                    "train",
                    "configs/digits.yaml",
                    f"model.audio_tower={folder / 'towers' / 'audio_tower'}",
                    f"model.language_model={folder / 'towers' / 'language_model'}",
                    f"data.train={manifests['train']}",
                    f"data.cache_dir={folder / 'encoder-cache'}",
                    f"seed={seed}",
                    *(
                        [f"stages.{s}.objectives.otreg.weight={weight}" for s in (0, 1)]
                        if weight
                        else []
                    ),
                    "--out",
                    run,
                )
                results = run / "results.json"
                tests = [f"{name}={manifests[name]}" for name in ("heard", "unheard")]
                data = ["--data", tests[0], "--data", tests[1], "--in-domain", "heard"]
                otreg("evaluate", run, *data, "--out", results)
                rows = json.loads(results.read_text())["rows"]
                table.append((held_out, arm, seed, {row["corpus"]: row["wer"] for row in rows}))
    print(
        "| held out | arm | seed | WER heard speakers % | WER unheard speaker % |\n|---|---|---|---|---|"
    )
    for held_out, arm, seed, wer in table:
        print(
            f"| {held_out} | {arm} | {seed} | {100 * wer['heard']:.1f} | {100 * wer['unheard']:.1f} |"
        )


if __name__ == "__main__":
    main()
