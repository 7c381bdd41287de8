"""`otreg transcribe`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from otreg.cli.application import app
from otreg.cli.trained_model import BatchSize, Device, Run, TrustRemoteCode, load
from otreg.cli.transcript_files import transcript_files, write_transcript


@app.command(epilog="Example: otreg transcribe runs/digits talk.mp3 --format srt --out talk.srt")
def transcribe(
    run: Run,
    audio: Annotated[
        list[Path], typer.Argument(help="Sound files of any length: wav, flac, ogg, mp3.")
    ],
    language: Annotated[
        str,
        typer.Option(
            help="Language code, for prompts that name the language; languages without spaces "
            "(zh, ja, th) need it where texts of overlapping chunks are joined. Models of others "
            "take theirs from model.request_options: for them it decides joining alone."
        ),
    ] = "",
    format: Annotated[
        str, typer.Option(metavar="text|srt|vtt|json", help="How transcripts are written.")
    ] = "text",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="Default: the terminal. Several sound files need a folder.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
    chunking: Annotated[
        str,
        typer.Option(
            metavar="silence|fixed",
            help="Where long recordings are cut: in their pauses, or every --max-chunk-s.",
        ),
    ] = "silence",
    max_chunk_s: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Longest chunk. Default: 25, or what the model takes. Best not longer than the "
            "recordings that the model was trained on.",
        ),
    ] = None,
    overlap_s: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="What two chunks share where a cut lies within speech. Default: 2.",
        ),
    ] = None,
    min_silence_s: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Shortest pause that counts as silence."),
    ] = 0.2,
    batch_size: BatchSize = 16,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a chunk.")] = 200,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Write what is said in sound files: one line each, the file's name, a tab, the transcript.

    Recordings longer than a chunk are cut, decoded piece by piece, and joined. What is not sure
    (a chunk that hit --max-new-tokens, an overlap heard differently) is said on stderr.
    """
    for path in audio:
        if not path.is_file():
            raise ValueError(f"no such sound file: {str(path)!r}")
    from otreg.transcription import FORMATS, SUFFIXES, Options, transcribe_recordings

    if format not in FORMATS:
        raise ValueError(f"--format {format}: expected one of {', '.join(FORMATS)}")
    files = transcript_files(audio, out, format, SUFFIXES[format], overwrite=overwrite)
    options = Options(chunking, max_chunk_s, overlap_s, min_silence_s)
    model, processor = load(run, device, trust_remote_code)
    found = transcribe_recordings(
        model,
        processor,
        audio,
        language=language,
        options=options,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        progress=not quiet,
    )
    from tqdm import tqdm

    for number, transcript in enumerate(found):
        for warning in transcript.warnings():
            tqdm.write(warning, file=sys.stderr)
        if files is not None:
            write_transcript(files[number], FORMATS[format](transcript))
        elif format == "text":
            tqdm.write(f"{transcript.file}\t{transcript.text}")
        else:
            tqdm.write(FORMATS[format](transcript), end="")
