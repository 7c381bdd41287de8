"""Evaluation: decoding, error rates, the modality gap, plots and the report.

Import from the modules: this package imports nothing, so that the core needs no plotting package.
"""
