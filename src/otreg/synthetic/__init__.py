"""Synthetic speech, text and tiny towers, for trying things without data or weights.

Import from the modules: this package imports nothing.
"""
