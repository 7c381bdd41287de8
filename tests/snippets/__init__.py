"""Snippets of README.md and docs/: taken out of the Markdown, and run in a scene where their names exist."""
