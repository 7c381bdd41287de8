"""Who may use a server: its key, and where it may listen without one."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlsplit

KEY_VARIABLE = "OTREG_API_KEY"


def read_key(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The key that clients must send: from a file, else from the environment, else none.

    Raises:
        ValueError: both are given, or the key is empty or not one word of printable ASCII.
    """
    variable = environment.get(KEY_VARIABLE)
    if path is not None and variable is not None:
        raise ValueError(
            f"--api-key-file and {KEY_VARIABLE} both give a key; keep one of them, and unset the other"
        )
    if path is None and variable is None:
        return None
    if path is None:
        source, key = f"the environment variable {KEY_VARIABLE}", variable or ""
    else:
        source = f"--api-key-file {path}"
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{source} cannot be read: {error}") from error
    if not key or not all("!" <= character <= "~" for character in key):
        raise ValueError(
            f"{source} must hold one key, of printable ASCII characters without spaces; make one "
            "with: openssl rand -hex 32"
        )
    return key


def key_matches(authorization: str | None, key: str) -> bool:
    """Tell whether an Authorization header is `Bearer KEY`, in time that does not tell the key."""
    scheme, _, sent = (authorization or "").partition(" ")
    same = hmac.compare_digest(sent.strip().encode("utf-8", "surrogateescape"), key.encode())
    return scheme.lower() == "bearer" and same


def check_host(host: str, key: str | None, *, insecure: bool) -> None:
    """Refuse to be reachable from other machines without a key.

    Raises:
        ValueError: the host is not this machine's own address, there is no key, and nobody said that
            this is wanted.
    """
    if key is None and not insecure and not is_local(host):
        raise ValueError(
            f"--host {host} may be reached from other machines, and no key protects the server; give "
            f"--api-key-file FILE or {KEY_VARIABLE}, or --insecure where that is meant"
        )


def names_of(host: str, key: str | None) -> frozenset[str] | None:
    """The names by which clients may call a server; None = any.

    A page whose name is made to lead to this machine (DNS rebinding) sends its own name. Where no key
    keeps it out and only this machine should get in, the name does.

    Args:
        host: where the server listens.
        key: what clients must send; None = no key is asked for.
    """
    if key is not None or not is_local(host):
        return None
    return frozenset(("localhost", "127.0.0.1", "::1", host.lower()))


def calls_by(header: str | None, names: Collection[str]) -> bool:
    """Tell whether a Host header holds one of these names, with a port or without."""
    try:
        return urlsplit(f"//{header or ''}").hostname in names
    except ValueError:  # such as a bracket that is not closed
        return False


def is_local(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
