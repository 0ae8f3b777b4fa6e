"""Access to the daemon by the settings."""

import os
from pathlib import Path

import pytest

from streamasr.config.endpoint import is_loopback, read_token
from streamasr.core.errors import ConfigError
from tests.support.errors import raises
from tests.support.settings import TOKEN, error_of, load, write_token


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_token(tmp_path / "token", f"{TOKEN}\n".encode())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_no_token(path: Path, host: str) -> None:
    assert is_loopback(host)
    assert load(path, f'[server]\nhost = "{host}"').server.host == host


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example", "127.1", "fe80::1", "*"],
)
def test_an_address_that_others_may_reach_needs_a_token(
    path: Path, host: str, token_file: Path
) -> None:
    text = f'[server]\nhost = "{host}"\n'
    assert f"{path}: other machines could connect to {host!r}" in error_of(path, text)
    assert load(path, f'{text}token_file = "token"').server.token_file == token_file


def test_a_unix_socket_needs_no_token(path: Path) -> None:
    assert load(path, '[server]\nhost = "0.0.0.0"\nsocket = "s"').server.socket


def test_the_token_is_what_the_file_holds_without_the_space_around_it(tmp_path: Path) -> None:
    assert read_token(write_token(tmp_path / "token", f"\n {TOKEN}\r\n".encode())) == TOKEN
    assert read_token(write_token(tmp_path / "other", TOKEN.encode(), mode=0o400)) == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"seven77", b"two words", b"caf\xc3\xa9-caf\xc3\xa9", b"a" * 513]
)
def test_a_malformed_token_is_refused(content: bytes, tmp_path: Path) -> None:
    with raises(ConfigError, "token_malformed") as caught:
        read_token(write_token(tmp_path / "token", content))
    assert not content.strip() or content.decode() not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o610])
def test_a_token_that_others_can_use_is_refused(mode: int, token_file: Path) -> None:
    token_file.chmod(mode)
    with raises(ConfigError, "token_not_private"):
        read_token(token_file)


def test_a_missing_token_file_is_refused_when_settings_are_read(path: Path) -> None:
    assert "cannot be read: No such file" in error_of(path, '[server]\ntoken_file = "none"')
    assert "is not a regular file" in error_of(path, '[server]\ntoken_file = "."')
    os.mkfifo(path.parent / "pipe", 0o600)  # which would not answer
    assert "is not a regular file" in error_of(path, '[server]\ntoken_file = "pipe"')
