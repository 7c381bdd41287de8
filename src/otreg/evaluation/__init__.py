"""Evaluation: decoding, error rates, the modality gap, plots and the report."""
