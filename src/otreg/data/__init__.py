"""Data: manifests, audio, collation."""
