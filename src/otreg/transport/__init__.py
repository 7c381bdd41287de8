"""Optimal transport on padded batches of arrays; knows nothing of speech."""

from otreg.transport.cosine_transport import CosineTransport, cosine_transport
from otreg.transport.cost import cosine_cost, cosine_similarity
from otreg.transport.sinkhorn import TransportResult, sinkhorn

__all__ = [
    "CosineTransport",
    "TransportResult",
    "cosine_cost",
    "cosine_similarity",
    "cosine_transport",
    "sinkhorn",
]
