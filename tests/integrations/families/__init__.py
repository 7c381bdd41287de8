"""Tiny models of the families that the tests attach to, a file each."""
