"""The type checker that the import hook of conftest.py puts around the package's tensor functions."""

from beartype import BeartypeConf, beartype

# An int is a float here, as everywhere in Python's type hints.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
