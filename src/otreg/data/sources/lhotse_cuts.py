"""Lhotse's cuts: a cuts manifest, or recordings and supervisions (extra `lhotse`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from otreg.data.manifest import audio_root
from otreg.data.sources.gather import Record, gather, import_extra
from otreg.data.utterance import ManifestError, Utterance


def read_lhotse(
    path: str | Path,
    *,
    supervisions: str | Path | None = None,
    language: str | None = None,
    root: str | Path | None = None,
    trim_to_supervisions: bool = False,
    drop_empty: bool = False,
) -> list[Utterance]:
    """Read cuts of Lhotse: of each its audio, its one supervision, and the words aligned with it.

    otreg decodes the audio itself, so what Lhotse would do to it while reading is refused: commands,
    links, transforms, one channel out of several, mixed and padded cuts.

    Args:
        path: cuts (.jsonl or .jsonl.gz), or recordings where supervisions are given.
        supervisions: the supervisions of these recordings; each recording is then a cut.
        language: of supervisions that name none.
        root: folder that the recordings' paths start from and stay in; None = that of `path`.
        trim_to_supervisions: make a cut of every supervision first, as Lhotse's method does.
        drop_empty: leave cuts without supervision or transcript out, and log how many.

    Raises:
        ImportError: Lhotse is missing.
        ManifestError: naming the cut that cannot be used.

    """
    lhotse = import_extra("lhotse", "lhotse", "reading Lhotse's cuts")
    path = Path(path)
    for file in (path, *([] if supervisions is None else [Path(supervisions)])):
        if not file.is_file():
            raise ManifestError(f"no such manifest of Lhotse: {str(file)!r}; expected a .jsonl.gz")
    try:
        if supervisions is None:
            cuts = lhotse.CutSet.from_file(path)
        else:
            cuts = lhotse.CutSet.from_manifests(
                recordings=lhotse.RecordingSet.from_file(path),
                supervisions=lhotse.SupervisionSet.from_file(supervisions),
            )
        if trim_to_supervisions:
            cuts = cuts.trim_to_supervisions(keep_overlapping=False)
        cuts = list(cuts)
    except Exception as error:  # whatever Lhotse's own reader meets in a damaged file
        raise ManifestError(f"{path}: Lhotse cannot read it: {error}") from error
    return gather(
        _records(cuts, str(path), language, drop_empty),
        root=audio_root(path, root),
        name=str(path),
        drop_empty=drop_empty,
    )


def _records(
    cuts: list[Any], name: str, language: str | None, drop_empty: bool
) -> Iterator[tuple[str, Record]]:
    for cut in cuts:
        where = f"{name}: cut {getattr(cut, 'id', cut)!r}"
        if type(cut).__name__ not in ("MonoCut", "MultiCut"):
            raise ManifestError(
                f"{where} is a {type(cut).__name__}; expected cuts of one recording each: write mixed "
                "and padded ones to files with CutSet.save_audios"
            )
        if len(cut.supervisions) > 1:
            raise ManifestError(
                f"{where} has {len(cut.supervisions)} supervisions; expected one: set "
                "trim_to_supervisions: true"
            )
        audio, start_s, end_s = _audio(cut, where)
        record: Record = {"id": cut.id, "audio": audio, "start_s": start_s, "end_s": end_s}
        if not cut.supervisions:
            yield where, record
            continue
        said = cut.supervisions[0]
        spoken = said.language or language
        if spoken is None:
            raise ManifestError(f"{where} has no language; give the source a language")
        record |= {"text": said.text, "language": spoken, "speaker": said.speaker}
        yield where, record | {"words": _words(said), "custom": cut.custom or None}


def _audio(cut: Any, where: str) -> tuple[str, float | None, float | None]:
    """The cut's audio as a manifest names it, and its span of it; all of it has no span."""
    recording = cut.recording
    if recording is None:
        raise ManifestError(f"{where} has no recording, features alone; give it its recording")
    if recording.transforms:
        raise ManifestError(
            f"{where}: its recording is to be transformed while it is read; write the result to files "
            "with CutSet.save_audios"
        )
    if len(recording.sources) != 1:
        raise ManifestError(
            f"{where}: its recording is in {len(recording.sources)} files; expected one"
        )
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if set(channels) != set(recording.channel_ids):
        raise ManifestError(
            f"{where} takes channel {cut.channel} of {recording.channel_ids}; otreg averages all "
            "channels of a file: write the channel to a file with CutSet.save_audios"
        )
    source = recording.sources[0]
    if source.type != "file":
        raise ManifestError(
            f"{where}: its recording is a {source.type} ({str(source.source)[:80]!r}), which otreg "
            "neither runs nor downloads; write it to a file with CutSet.save_audios"
        )
    audio = str(source.source)
    if cut.start == 0 and cut.num_samples == recording.num_samples:
        return audio, None, None
    return audio, float(cut.start), float(cut.end)


def _words(supervision: Any) -> list[dict[str, Any]] | None:
    """The word times that Lhotse's alignment "word" holds; they count from the cut's start."""
    aligned = (supervision.alignment or {}).get("word")
    if not aligned:
        return None
    return [
        {
            "word": item.symbol,
            "start_s": float(item.start),
            "end_s": float(item.start + item.duration),
        }
        for item in aligned
        if item.symbol.strip()
    ]
