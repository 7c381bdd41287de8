"""Long recordings against their pieces: errors, joins and peak memory of `otreg transcribe`'s path.

    python benchmarks/long_audio.py RUN MANIFEST

RUN is a run of the demo, such as demo-out/runs/best-seed0, and MANIFEST one of its corpora, such as
demo-out/corpora/demo/test-in-domain/manifest.jsonl. The defaults are for the demo, whose model heard
single sentences of up to 3.4 s and whose voices hardly pause.

Joins the utterances of a manifest, of one language, in their order and from the start again, to a
recording of --minutes, with --pause-s of silence between them beside their own. The recording is
transcribed by `otreg.transcription`, and the utterances apart by the same model; printed are word
errors of both and the number of joins. The claim: no more errors than apart plus one word a join.

--memory 1,10,60 measures peak memory instead, each length in a process of its own (Linux, macOS).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile

from otreg.data.audio import SAMPLE_RATE_HZ, load_audio
from otreg.data.manifest import Utterance, read_manifest
from otreg.evaluation.wer import normalize_text
from otreg.languages import is_character_language


def join_utterances(
    rows: list[Utterance], path: Path, *, minutes: float, pause_s: float
) -> list[int]:
    """Write rows one after the other until the time is full; returns which rows, in order."""
    order: list[int] = []
    samples = 0
    silence = np.zeros(round(pause_s * SAMPLE_RATE_HZ), dtype=np.float32)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, subtype="PCM_16") as file:
        while True:
            row = len(order) % len(rows)
            speech = np.concatenate([load_audio(rows[row]), silence])
            if samples + len(speech) > minutes * 60 * SAMPLE_RATE_HZ:
                return order
            file.write(speech)
            samples += len(speech)
            order.append(row)


def num_errors(references: list[str], hypotheses: list[str], language: str) -> tuple[int, int]:
    """Errors and reference words, the texts of each list taken as one."""

    def words(texts: list[str]) -> str:
        text = normalize_text(" ".join(texts), language)
        return " ".join(text.replace(" ", "")) if is_character_language(language) else text

    found = jiwer.process_words(words(references), words(hypotheses))
    errors = found.substitutions + found.deletions + found.insertions
    return errors, found.hits + found.substitutions + found.deletions


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Long against apart, one result for each policy."""
    from otreg.model.generation import transcribe
    from otreg.model.loading import load_model
    from otreg.transcription import Options, transcribe_recordings

    model, processor = load_model(str(options.run))
    rows = language_rows(options)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.wav"
        order = join_utterances(rows, path, minutes=options.minutes, pause_s=options.pause_s)
        apart = {r.id: r.hypothesis for r in transcribe(model, processor, rows)}
        spoken = [rows[row].text for row in order]
        pieces = [apart[rows[row].id] for row in order]
        # Summed piece by piece, so that an error cannot be mended by a neighbour.
        counts = [
            num_errors([a], [b], options.language) for a, b in zip(spoken, pieces, strict=True)
        ]
        errors_apart, num_words = (sum(column) for column in zip(*counts, strict=True))
        for policy in options.policies.split(","):
            start = time.perf_counter()
            cut = Options(policy, options.max_chunk_s, options.overlap_s, options.min_silence_s)
            (long,) = transcribe_recordings(
                model, processor, [path], language=options.language, options=cut
            )
            seconds = time.perf_counter() - start
            cuts = [segment.cut for segment in long.segments]
            errors_long, _ = num_errors(spoken, [long.text], options.language)
            results.append(
                {
                    "policy": policy,
                    "minutes": long.duration_s / 60,
                    "words": num_words,
                    "utterances": len(order),
                    "errors_apart": errors_apart,
                    "errors_long": errors_long,
                    "joins": len(cuts) - 1,
                    "overlaps": cuts.count("overlap"),
                    "unmatched": sum(segment.matched is False for segment in long.segments),
                    "hit_limit": sum(segment.hit_limit for segment in long.segments),
                    "seconds": seconds,
                    "holds": errors_long <= errors_apart + len(cuts) - 1,
                }
            )
            if options.show:
                for segment in long.segments:
                    print(f"{segment.start_s:8.2f} {segment.cut:8} {segment.text}", file=sys.stderr)
    return results


def language_rows(options: argparse.Namespace) -> list[Utterance]:
    """The manifest's rows in the language asked for."""
    rows = [row for row in read_manifest(options.manifest) if row.language == options.language]
    if not rows:
        raise SystemExit(f"{options.manifest} has no rows in {options.language!r}")
    return rows


def measure_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of transcribing recordings of several lengths, each in a new process."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in map(float, options.memory.split(",")):
            path = Path(folder) / f"{minutes:g}.{options.suffix}"
            wav = path.with_suffix(".wav")
            rows = language_rows(options)
            join_utterances(rows, wav, minutes=minutes, pause_s=options.pause_s)
            if path != wav:
                convert(wav, path)
            command = [sys.executable, __file__, str(options.run), str(path), "--peak"]
            command += ["--max-chunk-s", str(options.max_chunk_s)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append({"minutes": minutes, **json.loads(done.stdout)})
            path.unlink()
    return results


def convert(source: Path, target: Path) -> None:
    """Write a WAV file in another format, block by block."""
    with (
        soundfile.SoundFile(source) as file,
        soundfile.SoundFile(target, "w", file.samplerate, file.channels) as out,
    ):
        for block in file.blocks(1 << 16, dtype="float32"):
            out.write(block)


def peak(options: argparse.Namespace) -> dict[str, float]:
    """Transcribe one recording, given in the manifest's place; peak memory of this process."""
    from otreg.model.loading import load_model
    from otreg.transcription import Options, transcribe_recordings

    def peak_mib() -> float:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    model, processor = load_model(str(options.run))
    loaded_mib = peak_mib()
    start = time.perf_counter()
    cut = Options(max_chunk_s=options.max_chunk_s, min_silence_s=options.min_silence_s)
    (found,) = transcribe_recordings(model, processor, [options.manifest], options=cut)
    return {
        "chunks": len(found.segments),
        "loaded_mib": loaded_mib,
        "peak_mib": peak_mib(),
        "seconds": time.perf_counter() - start,
    }


def show(results: list[dict[str, Any]]) -> None:
    """A table of results, a row each."""
    print("| " + " | ".join(name.replace("_", " ") for name in results[0]) + " |")
    print("|" + "---|" * len(results[0]))
    for result in results:
        cells = [f"{v:.1f}" if isinstance(v, float) else str(v) for v in result.values()]
        print("| " + " | ".join(cells) + " |")


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run or model folder")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--language", default="en")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pause-s", type=float, default=0.0, help="added between utterances")
    parser.add_argument("--policies", default="silence,fixed")
    parser.add_argument("--max-chunk-s", type=float, default=3.0)
    parser.add_argument("--min-silence-s", type=float, default=0.1)
    parser.add_argument("--overlap-s", type=float)
    parser.add_argument("--memory", help="minutes, such as 1,10,60: measure peak memory")
    parser.add_argument("--suffix", default="wav", help="format of --memory's recordings")
    parser.add_argument("--show", action="store_true", help="all segments, on stderr")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options)))
        return 0
    results = measure_memory(options) if options.memory else compare(options)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
