"""Writing any data as a manifest, with the audio that is no file of its own beside it."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from otreg.data.audio import FORMATS
from otreg.data.audio_bytes import AudioBytes
from otreg.data.av_audio import HEAD_BYTES, recognised
from otreg.data.manifest import write_manifest
from otreg.data.utterance import ManifestError, Utterance


def export_manifest(
    path: str | Path, utterances: Iterable[Utterance], *, audio: str | Path = "audio"
) -> None:
    """Write a manifest, and beside it the audio that is no file: as its bytes are, not decoded.

    Args:
        path: the manifest to write.
        utterances: what to write; the files of those that have one must be below the manifest's
            folder.
        audio: folder of the new sound files, relative to the manifest's. A file is named after the
            utterance's id and the hash of its content, so writing again writes the same.

    Raises:
        ManifestError: what `write_manifest` refuses, or audio that is no sound file.

    """
    folder = Path(path).parent / audio
    write_manifest(path, [_with_file(utterance, folder) for utterance in utterances])


def _with_file(utterance: Utterance, folder: Path) -> Utterance:
    if not isinstance(utterance.audio, AudioBytes):
        return utterance
    import soundfile

    content = utterance.audio.read()
    try:
        format = recognised(content[:HEAD_BYTES]) or soundfile.info(io.BytesIO(content)).format
        kind = FORMATS[format]
    except (soundfile.SoundFileError, KeyError) as error:
        raise ManifestError(
            f"{utterance.name}: audio {utterance.audio} is no sound file that otreg reads: {error}"
        ) from error
    plain = re.sub(r"[^\w.-]+", "_", utterance.id).strip("._")[:80]
    file = folder / f"{plain}-{hashlib.sha256(content).hexdigest()[:12]}.{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(file.name + ".tmp")
    staged.write_bytes(content)
    os.replace(staged, file)
    return replace(utterance, audio=file)
