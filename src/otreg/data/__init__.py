"""Data: manifests and other sources, audio, the dataset, the batch, the sampler and the encoder cache.

No audio package is imported before the first file is opened.
"""

from otreg.data.audio import (
    MAX_DURATION_S,
    SAMPLE_RATE_HZ,
    AudioError,
    AudioInfo,
    audio_info,
    load_audio,
)
from otreg.data.audio_bytes import AudioBytes, MemoryAudio
from otreg.data.collate import IGNORED_LABEL, SpeechTextCollator
from otreg.data.dataset import Example, Processor, SpeechTextDataset, as_utterances
from otreg.data.encoder_cache import (
    EncoderCache,
    StaleCacheError,
)
from otreg.data.manifest import (
    ManifestError,
    Utterance,
    Word,
    read_manifest,
    read_manifests,
    write_manifest,
)
from otreg.data.sampler import TokenBudgetBatchSampler
from otreg.data.sources import export_manifest, open_stream, read_source
from otreg.data.stream import SpeechTextStream
from otreg.data.utterance import AudioSpan

__all__ = [
    "IGNORED_LABEL",
    "MAX_DURATION_S",
    "SAMPLE_RATE_HZ",
    "AudioBytes",
    "AudioError",
    "AudioInfo",
    "AudioSpan",
    "EncoderCache",
    "Example",
    "ManifestError",
    "MemoryAudio",
    "Processor",
    "SpeechTextCollator",
    "SpeechTextDataset",
    "SpeechTextStream",
    "StaleCacheError",
    "TokenBudgetBatchSampler",
    "Utterance",
    "Word",
    "as_utterances",
    "audio_info",
    "export_manifest",
    "load_audio",
    "open_stream",
    "read_manifest",
    "read_manifests",
    "read_source",
    "write_manifest",
]
