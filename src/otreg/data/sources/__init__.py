"""Data of every kind as utterances: manifests, Hugging Face datasets, Lhotse, webdataset, Kaldi, NeMo.

`read_source` is the one entry; docs/data.md has an example of each kind.
"""

from otreg.data.sources.export import export_manifest
from otreg.data.sources.reading import (
    READERS,
    Source,
    check_source,
    is_stream,
    open_stream,
    read_source,
    read_sources,
)
from otreg.data.sources.streams import UtteranceStream

__all__ = [
    "READERS",
    "Source",
    "UtteranceStream",
    "check_source",
    "export_manifest",
    "is_stream",
    "open_stream",
    "read_source",
    "read_sources",
]
