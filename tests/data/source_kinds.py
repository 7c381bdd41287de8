"""One corpus written in every kind of data that otreg reads, by the libraries that own the kind."""

import csv
import json
from pathlib import Path

import numpy as np
import soundfile

from otreg.data import Utterance, read_manifest, write_manifest

WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "grün",
    "süß",
    "Straße",
    "007",
    "null",
    "NA",
]
FORMATS = [("wav", 16000, 1), ("flac", 22050, 2), ("wav", 8000, 1), ("ogg", 16000, 1)]
LONG = "long.flac"


def write_corpus(folder: Path, *, num: int = 50) -> list[Utterance]:
    """Tones and noise: four formats, every fifth utterance a span of one long recording."""
    rng = np.random.default_rng(7)
    (folder / "wav").mkdir(parents=True)
    soundfile.write(folder / "wav" / LONG, 0.1 * rng.standard_normal(16000 * num // 4), 16000)
    utterances = []
    for number in range(num):
        text = " ".join(rng.choice(WORDS, size=rng.integers(1, 4)))
        span = {}
        path = folder / "wav" / LONG
        if number % 5:
            suffix, rate_hz, channels = FORMATS[number % len(FORMATS)]
            path = folder / "wav" / f"{number:02d}.{suffix}"
            time_s = np.arange(int(rate_hz * (0.3 + 0.01 * number))) / rate_hz
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 900) * time_s)
            samples = tone[:, None] + 0.05 * rng.standard_normal((len(time_s), channels))
            soundfile.write(path, samples, rate_hz)
        else:
            span = {"start_s": 0.25 * number / 5, "end_s": 0.25 * number / 5 + 0.75}
        language, speaker = ("de", "s2") if number % 3 else ("en", "s1")
        utterances.append(
            Utterance(f"u{number:02d}", path, text, language, speaker=speaker, **span)
        )
    write_manifest(folder / "all.jsonl", utterances)
    return read_manifest(folder / "all.jsonl")


def rows_of(utterances):
    """Rows of a table: everything but the audio."""
    keys = ("id", "text", "language", "speaker", "start_s", "end_s")
    return [{key: getattr(utterance, key) for key in keys} for utterance in utterances]


def write_parquet(path, utterances, **columns):
    """A parquet file with Hugging Face's features, the audio as bytes."""
    import datasets
    import pyarrow

    rows = rows_of(utterances)
    audio = [{"bytes": u.audio.read_bytes(), "path": u.audio.name} for u in utterances]
    table = {key: [row[key] for row in rows] for key in rows[0]} | columns
    schema = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    arrays = {key: pyarrow.array(values) for key, values in table.items()}
    made = pyarrow.table(arrays | {"audio": pyarrow.array(audio, schema)})
    plain = datasets.Features.from_arrow_schema(made.schema)
    features = datasets.Features({**plain, "audio": datasets.Audio()})
    made = made.cast(features.arrow_schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset(made).to_parquet(path)
    return path


def write_audiofolder(folder, utterances, kind="csv"):
    """metadata.csv or .jsonl beside the sound files, which are copied."""
    folder.mkdir(parents=True)
    rows = []
    for row, utterance in zip(rows_of(utterances), utterances, strict=True):
        (folder / utterance.audio.name).write_bytes(utterance.audio.read_bytes())
        rows.append({"file_name": utterance.audio.name} | row)
    if kind == "jsonl":
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
        return folder
    with open(folder / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def lhotse_cuts(utterances):
    """A cut an utterance, as Lhotse has them."""
    from lhotse import AudioSource, CutSet, MonoCut, MultiCut, Recording, SupervisionSegment

    cuts = []
    for u in utterances:
        info = soundfile.info(u.audio)
        channels = list(range(info.channels))
        recording = Recording(
            id=u.audio.stem,
            sources=[AudioSource(type="file", channels=channels, source=str(u.audio))],
            sampling_rate=info.samplerate,
            num_samples=info.frames,
            duration=info.frames / info.samplerate,
        )
        start = u.start_s or 0.0
        duration = recording.duration if u.end_s is None else u.end_s - start
        said = SupervisionSegment(
            id=u.id,
            recording_id=recording.id,
            start=0.0,
            duration=duration,
            channel=channels if info.channels > 1 else 0,
            text=u.text,
            language=u.language,
            speaker=u.speaker,
        )
        kind = MultiCut if info.channels > 1 else MonoCut
        channel = channels if info.channels > 1 else 0
        cuts.append(kind(u.id, start, duration, channel, recording=recording, supervisions=[said]))
    return CutSet.from_cuts(cuts)


def write_lhotse(path, utterances):
    """A cuts manifest, written by Lhotse."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lhotse_cuts(utterances).to_file(path)
    return path


def write_shards(folder, utterances, *, per_shard=20):
    """Tar shards, written by webdataset."""
    import webdataset

    folder.mkdir(parents=True)
    for first in range(0, len(utterances), per_shard):
        with webdataset.TarWriter(str(folder / f"part-{first // per_shard:03d}.tar")) as tar:
            for u in utterances[first : first + per_shard]:
                facts = {k: v for k, v in rows_of([u])[0].items() if v is not None}
                del facts["text"], facts["id"]
                sound = {u.audio.suffix[1:]: u.audio.read_bytes()}
                tar.write({"__key__": u.id, **sound, "json": facts, "txt": u.text})
    return folder


def write_kaldi(folder, utterances):
    """A Kaldi data folder with segments, one recording a file."""
    folder.mkdir(parents=True)
    recordings = {u.audio.stem: u.audio for u in utterances}
    tables = {
        "wav.scp": [f"{key} {path}" for key, path in recordings.items()],
        "text": [f"{u.id} {u.text}" for u in utterances],
        "utt2spk": [f"{u.id} {u.speaker}" for u in utterances],
        "utt2lang": [f"{u.id} {u.language}" for u in utterances],
        "segments": [
            f"{u.id} {u.audio.stem} {u.start_s or 0:.2f} {-1 if u.end_s is None else u.end_s:.2f}"
            for u in utterances
        ],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_nemo(path, utterances):
    """NeMo's manifest; every line has a duration, as NeMo's own scripts write it."""
    lines = []
    for u in utterances:
        info = soundfile.info(u.audio)
        whole = info.frames / info.samplerate
        line = {"audio_filepath": str(u.audio), "text": u.text, "lang": u.language, "id": u.id}
        line |= {"speaker": u.speaker, "duration": whole}
        if u.end_s is not None:
            line |= {"offset": u.start_s, "duration": u.end_s - u.start_s}
        lines.append(json.dumps(line) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_every_kind(folder, utterances):
    """Name -> source, for each kind and its variants."""
    root = str(folder)
    parquet = write_parquet(folder / "parquet" / "test.parquet", utterances)
    csv_folder = write_audiofolder(folder / "csv", utterances)
    jsonl_folder = write_audiofolder(folder / "jsonl" / "test", utterances, "jsonl")
    cuts = write_lhotse(folder / "lhotse" / "cuts.jsonl.gz", utterances)
    shards = write_shards(folder / "shards", utterances)
    kaldi = write_kaldi(folder / "kaldi", utterances)
    nemo = write_nemo(folder / "nemo" / "manifest.json", utterances)
    huggingface = {"type": "huggingface"}
    return {
        "manifest": {"type": "manifest", "path": str(folder / "all.jsonl")},
        "parquet": huggingface | {"path": str(parquet)},
        "parquet folder": huggingface | {"path": str(parquet.parent), "split": "test"},
        "audiofolder csv": huggingface | {"path": str(csv_folder)},
        "audiofolder jsonl": huggingface | {"path": str(jsonl_folder.parent), "split": "test"},
        "lhotse": {"type": "lhotse", "path": str(cuts), "root": root},
        "webdataset": {"type": "webdataset", "path": str(shards)},
        "webdataset braces": {"type": "webdataset", "path": f"{shards}/part-{{000..002}}.tar"},
        "kaldi": {"type": "kaldi", "path": str(kaldi), "root": root},
        "nemo": {"type": "nemo", "path": str(nemo), "root": root},
    }
