"""Kaldi's data folders: wav.scp, text and, where they are, segments and utt2spk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from otreg.data.manifest import audio_root
from otreg.data.sources.gather import Record, gather, table_lines
from otreg.data.utterance import ManifestError, Utterance


def read_kaldi(
    path: str | Path,
    *,
    language: str | None = None,
    root: str | Path | None = None,
    drop_empty: bool = False,
) -> list[Utterance]:
    """Read a data folder of Kaldi, in the order of its `text`.

    Args:
        path: the folder, with wav.scp, text and, where they are, segments, utt2spk and utt2lang.
        language: of utterances that utt2lang does not name.
        root: folder that the paths of wav.scp start from and stay in; None = the data folder.
        drop_empty: leave utterances without transcript out, and log how many.

    Raises:
        ManifestError: naming file and line that cannot be used: a command in wav.scp, which is never
            run, a recording or an utterance that only one of the files knows.

    """
    folder = Path(path)
    if not (folder / "wav.scp").is_file():
        raise ManifestError(f"{folder}: no wav.scp in it; expected a data folder of Kaldi")
    return gather(
        _records(folder, language),
        root=audio_root(folder / "wav.scp", root),
        name=str(folder),
        drop_empty=drop_empty,
    )


def _records(folder: Path, language: str | None) -> Iterator[tuple[str, Record]]:
    audio = {}
    for where, (key, value) in table_lines(folder / "wav.scp"):
        _check_path(value, where)
        audio[key] = value
    spans = _segments(folder / "segments", audio)
    speakers = _optional(folder / "utt2spk")
    languages = _optional(folder / "utt2lang")
    left = set(spans)
    for where, (key, text) in table_lines(folder / "text"):
        if key not in spans:
            file = "segments" if (folder / "segments").is_file() else "wav.scp"
            raise ManifestError(
                f"{where}: utterance {key!r} is not in {folder / file}; complete it"
            )
        left.discard(key)
        recording, start_s, end_s = spans[key]
        spoken = languages.get(key, language)
        if spoken is None:
            raise ManifestError(
                f"{where}: utterance {key!r} has no language; give the source a language, or the "
                "folder a file utt2lang"
            )
        record: Record = {"id": key, "audio": audio[recording], "text": text, "language": spoken}
        yield where, record | {"speaker": speakers.get(key), "start_s": start_s, "end_s": end_s}
    for key in sorted(left):
        yield f"{folder / 'text'}: utterance {key!r}", {"id": key, "audio": key, "text": None}


def _check_path(value: str, where: str) -> None:
    """Refuse what Kaldi would not open as a file: commands, and places inside archives."""
    if value.startswith("|") or value.endswith("|"):
        raise ManifestError(
            f"{where}: {value!r} is a command, which otreg never runs; run it once yourself, keep what "
            "it writes as a wav or flac file, and name that file here"
        )
    if not value or value == "-" or (value.rpartition(":")[2].isdigit() and ".ark:" in value):
        raise ManifestError(
            f"{where}: {value!r} is no sound file; expected a path, such as wav/a.flac (write what an "
            "archive holds into files: wav-copy)"
        )


def _segments(
    path: Path, audio: dict[str, str]
) -> dict[str, tuple[str, float | None, float | None]]:
    """Utterance -> recording, start and end; without the file every recording is one."""
    if not path.is_file():
        return {key: (key, None, None) for key in audio}
    spans: dict[str, tuple[str, float | None, float | None]] = {}
    for where, (key, recording, start, end) in table_lines(path, 4):
        if recording not in audio:
            raise ManifestError(f"{where}: recording {recording!r} is not in wav.scp; complete it")
        try:
            start_s, end_s = float(start), float(end)
        except ValueError:
            raise ManifestError(
                f"{where}: expected start and end in seconds, received {start!r} and {end!r}"
            ) from None
        # Kaldi writes -1 for "to the end of the recording".
        spans[key] = (recording, start_s, None if end_s == -1 else end_s)
    return spans


def _optional(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {key: value for _, (key, value) in table_lines(path, 2)}
