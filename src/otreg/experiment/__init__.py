"""Experiments as data: one YAML a system, and the runner that turns it into results and a report."""
