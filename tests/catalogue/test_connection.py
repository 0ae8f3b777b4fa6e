"""Tokens, proxies and certificates of connections."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.download import download
from streamasr.catalogue.timeouts import Policy
from tests.support.fetching import CONTENT, PATH, SHA256, fetch, refusal
from tests.support.hubs import FileServer, redirect


def test_the_token_is_sent_to_its_own_host_only(
    server: FileServer, path: Path, policy: Policy, tmp_path: Path
) -> None:
    with FileServer() as other, open_session(server.url, "sesame") as session:
        there = other.put(PATH, CONTENT)
        server.script("/a", redirect(there))
        other.script("/back", redirect(server.put("/b", CONTENT)))
        download(f"{server.url}/a", path, session=session, policy=policy)
        download(f"{other.url}/back", tmp_path / "b", session=session, policy=policy)
        assert server.requests_for("/a")[0].headers["Authorization"] == "Bearer sesame"
        assert server.requests_for("/b")[0].headers["Authorization"] == "Bearer sesame"
        assert not any("Authorization" in request.headers for request in other.requests)


def test_passwords_in_netrc_are_not_sent(
    server: FileServer, url: str, path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = path.parent / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password word")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    fetch(url, path, policy)
    assert "Authorization" not in server.requests[0].headers


def test_a_proxy_is_asked_where_the_environment_names_one(
    server: FileServer, path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(PATH, CONTENT)
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    address = f"http://models.invalid{PATH}"
    assert fetch(address, path, policy).sha256 == SHA256
    assert server.requests[0].target == address
    monkeypatch.setenv("NO_PROXY", "models.invalid")
    monkeypatch.setenv("no_proxy", "models.invalid")
    once = replace(policy, attempts=1)
    assert "was not found" in refusal(address, path, once, "connection_failed")


def test_an_unreachable_proxy_is_named_as_the_reason(
    url: str, path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileServer() as gone:
        address = gone.url
    monkeypatch.setenv("http_proxy", address)
    said = refusal(url, path, replace(policy, attempts=1), "connection_failed")
    assert "the proxy cannot be reached" in said


def test_a_connection_that_should_be_encrypted_and_is_not_fails(
    server: FileServer, path: Path, policy: Policy
) -> None:
    address = server.url.replace("http://", "https://")
    said = refusal(address, path, replace(policy, attempts=1), "connection_failed")
    assert "encrypted connection failed" in said


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[FileServer]:
    """A server with a self-signed certificate, in `certificate.pem`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FileServer() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.put(PATH, CONTENT)
        yield server


def test_a_certificate_must_be_one_that_is_trusted(
    encrypted: FileServer, tmp_path: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = encrypted.url.replace("http://", "https://")
    path = tmp_path / "model.gguf"
    refusal(address + PATH, path, policy, "certificate_not_verified")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
    assert fetch(address + PATH, path, policy).sha256 == SHA256
    encrypted.script("/a", redirect(f"{encrypted.url}{PATH}"))
    said = refusal(f"{address}/a", path, policy, "bad_redirect")
    assert "redirected to 127.0.0.1 without encryption" in said
