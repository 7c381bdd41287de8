"""otreg: optimal-transport regularisation of speech-text alignment (OTReg, arXiv 2508.08131)."""

__version__ = "0.1.0"
