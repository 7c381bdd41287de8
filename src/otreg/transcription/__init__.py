"""Transcription: recordings of any length to text with times.

A recording is surveyed in one streamed pass, cut into chunks that the model takes, decoded in
bounded groups of chunks, and its texts are joined.
"""

from otreg.transcription.chunking import POLICIES, Chunk, chunks_at_silence, chunks_of_fixed_length
from otreg.transcription.joining import Seam, join, join_texts
from otreg.transcription.pieces import Joiner, Options, cut
from otreg.transcription.recordings import transcribe_recordings
from otreg.transcription.survey import Survey, survey
from otreg.transcription.transcripts import FORMATS, SUFFIXES, Segment, Transcript

__all__ = [
    "FORMATS",
    "POLICIES",
    "SUFFIXES",
    "Chunk",
    "Joiner",
    "Options",
    "Seam",
    "Segment",
    "Survey",
    "Transcript",
    "chunks_at_silence",
    "chunks_of_fixed_length",
    "cut",
    "join",
    "join_texts",
    "survey",
    "transcribe_recordings",
]
