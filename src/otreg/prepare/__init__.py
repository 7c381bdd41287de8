"""Programs over manifests: each reads one, and writes a richer one or fills a cache.

What they share (resuming, progress, provenance) is in `otreg.prepare.program`.
"""
