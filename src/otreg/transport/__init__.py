"""Optimal transport on padded batches of arrays; knows nothing of speech."""

from otreg.transport.cosine_transport import CosineTransport, cosine_transport
from otreg.transport.cost import cosine_cost, cosine_similarity, unit_vectors
from otreg.transport.sinkhorn import METHODS, TransportResult, check_options, sinkhorn

__all__ = [
    "METHODS",
    "CosineTransport",
    "TransportResult",
    "check_options",
    "cosine_cost",
    "cosine_similarity",
    "cosine_transport",
    "sinkhorn",
    "unit_vectors",
]
