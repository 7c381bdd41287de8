"""Where `otreg transcribe` writes: a file, one file a recording in a folder, or the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def transcript_files(
    audio: Sequence[Path], out: str | Path | None, format: str, suffix: str, *, overwrite: bool
) -> list[Path] | None:
    """The file of each recording's transcript; None = the terminal.

    Args:
        audio: the recordings.
        out: a file, or a folder: where it is one, is written with a slash at its end, or stands for
            several recordings.
        format: of the transcripts, for messages.
        suffix: of files in a folder, such as ".srt".
        overwrite: whether files that are there may be replaced.

    Raises:
        ValueError: subtitles of several recordings for the terminal, two recordings for one file, a
            file that is there already, or one that is itself a recording.
    """
    if out is None:
        if format in ("srt", "vtt") and len(audio) > 1:
            raise ValueError(
                f"--format {format} of {len(audio)} files needs --out FOLDER: a file of subtitles is "
                "for one recording"
            )
        return None
    names_folder = str(out).endswith(tuple(filter(None, (os.sep, os.altsep))))  # a Path drops it
    out = Path(out)
    if len(audio) > 1 or out.is_dir() or names_folder:
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file; {len(audio)} recordings need a folder")
        files = [out / f"{path.stem}{suffix}" for path in audio]
    else:
        files = [out]
    for number, file in enumerate(files):
        if file in files[:number]:
            raise ValueError(
                f"{audio[files.index(file)]} and {audio[number]} would both be written to {file}; "
                "name them apart, or transcribe them one by one"
            )
        if file.resolve() in [path.resolve() for path in audio]:
            raise ValueError(f"{file} is both read and written; give --out another name")
        if file.exists() and not overwrite:
            raise ValueError(f"{file} exists; name another --out, or give --overwrite")
    return files


def write_transcript(file: Path, content: str) -> None:
    """Write a transcript in one step; its folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        staged.write_text(content, encoding="utf-8", newline="\n")
        os.replace(staged, file)
    finally:
        staged.unlink(missing_ok=True)
