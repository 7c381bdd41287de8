"""Keys and hosts."""

from __future__ import annotations

import pytest

from otreg.serving.access import calls_by, check_host, is_local, key_matches, names_of, read_key


def test_a_key_comes_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    assert read_key(file, {}) == "s3cret"
    assert read_key(None, {"OTREG_API_KEY": "other"}) == "other"
    assert read_key(None, {}) is None
    with pytest.raises(ValueError, match="both give a key; keep one"):
        read_key(file, {"OTREG_API_KEY": "other"})
    with pytest.raises(ValueError, match=r"--api-key-file .*none cannot be read"):
        read_key(tmp_path / "none", {})


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", "schlüssel", "a\tb"])
def test_a_key_is_one_word_of_ascii(tmp_path, content):
    file = tmp_path / "key"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"must hold one key.*openssl rand"):
        read_key(file, {})
    with pytest.raises(ValueError, match="the environment variable OTREG_API_KEY must hold one"):
        read_key(None, {"OTREG_API_KEY": content})


@pytest.mark.parametrize(
    ("header", "matches"),
    [
        ("Bearer k", True),
        ("bearer k", True),
        ("Bearer  k", True),
        ("Bearer K", False),
        ("Bearer", False),
        ("k", False),
        ("", False),
        (None, False),
        ("Token k", False),
        ("Bearer \udcff", False),
    ],
)
def test_only_the_key_matches(header, matches):
    assert key_matches(header, "k") is matches


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_local_hosts_need_no_key(host):
    assert is_local(host)
    check_host(host, None, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_others_need_a_key_or_a_word(host):
    assert not is_local(host)
    with pytest.raises(ValueError, match=r"no key protects the server; give --api-key-file"):
        check_host(host, None, insecure=False)
    check_host(host, "key", insecure=False)
    check_host(host, None, insecure=True)


@pytest.mark.parametrize(
    ("header", "own"),
    [
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("127.8.9.1", True),
        ("127.8.9.2", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("[::1", False),
        ("", False),
        (None, False),
    ],
)
def test_a_local_server_without_a_key_answers_to_its_own_names(header, own):
    assert calls_by(header, names_of("127.8.9.1", None)) is own


def test_with_a_key_or_for_other_machines_any_name_will_do():
    assert names_of("127.0.0.1", "key") is None
    assert names_of("0.0.0.0", None) is None
