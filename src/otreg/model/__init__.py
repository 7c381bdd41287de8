"""The speech language model: encoder, adapter, compression, language model."""
