"""Programs over manifests: each reads one, and writes a richer one or fills a cache."""
