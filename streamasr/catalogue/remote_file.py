"""A file on the web: asked for, or what is missing of it, and why it does not come."""

import contextlib
import email.utils
import re
from collections.abc import Iterator
from datetime import UTC
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import (
    ConnectTimeout,
    InvalidHeader,
    InvalidSchema,
    InvalidURL,
    MissingSchema,
    ProxyError,
    ReadTimeout,
    RequestException,
    SSLError,
)
from urllib3.exceptions import DecodeError, HTTPError, NameResolutionError, ReadTimeoutError

from streamasr.catalogue.timeouts import Policy, TransientError
from streamasr.core.errors import DownloadError

_PIECE: Final = 1 << 17
_MOST_REDIRECTS: Final = 10
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one later."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class RemoteFile:
    """An address, as often as it is asked."""

    def __init__(
        self, url: str, session: requests.Session, policy: Policy, repository: str | None = None
    ) -> None:
        """Ask nothing yet.

        Args:
            url: the address.
            session: from `open_session`.
            policy: how patient to be.
            repository: of a hub, if that is what is asked for: then errors are about it.
        """
        self._url = url
        self._repository = repository
        self._session = session
        self._policy = policy

    def ask(self, position: int, version: str | None) -> requests.Response:
        """The answer at the end of all redirects, with its body still to come.

        The body of a redirect, of any length, is not read.

        Args:
            position: bytes that are there already; they need not come again.
            version: of which version of the file those are, if that is known.

        Raises:
            TransientError: there is none, or one that may be another one later.
            DownloadError: it brings no file, and waiting does not change that.
        """
        headers = {}
        if position:
            headers["Range"] = f"bytes={position}-"
            if version:
                headers["If-Range"] = version
        url = self._url
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._get(url, headers)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                self._check(response, position)
                return response
            with response:
                url = self._target(url, response.headers["Location"])
        raise self.failure("it is redirected again and again")

    def pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body, unpacked if it is compressed, in pieces as they come.

        Raises:
            TransientError: the connection ended, or nothing came for too long.
            DownloadError: it cannot be unpacked.
        """
        while True:
            with self._explained():
                # Other than `read`, this loses nothing when the connection breaks.
                piece = response.raw.read1(_PIECE, decode_content=True)
            if not piece:
                return
            yield piece

    def failure(self, reason: str) -> DownloadError:
        """The error that says why the file cannot be had."""
        return DownloadError(f"{self._repository or self._url} cannot be fetched: {reason}.")

    def page(self) -> DownloadError:
        """The error that says that a web page came in place of a file."""
        return DownloadError(
            f"what {self._url} sent is a web page, not a model; open the address in a browser."
        )

    def _get(self, url: str, headers: dict[str, str]) -> requests.Response:
        with self._explained():
            return self._session.get(
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(self._policy.connect_s, self._policy.silence_s),
            )

    def _target(self, url: str, location: str) -> str:
        try:
            # http.client reads headers as Latin-1; addresses are UTF-8.
            target = urljoin(url, location.encode("latin-1").decode("utf-8"))
            parts = urlsplit(target)
        except ValueError as error:
            raise self.failure("it is redirected to what is no address") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise self.failure(f"it is redirected to {target[:200]!r}, which is not of the web")
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise self.failure(f"it is redirected to {parts.hostname} without encryption")
        return target

    def _check(self, response: requests.Response, position: int) -> None:
        """Refuse answers that bring no file."""
        status = response.status_code
        if status in (200, 206) or (status == 416 and position):
            return
        with response:
            host = urlsplit(response.url).hostname
            if status in _PASSING:
                raise TransientError(
                    f"{host} answered {_described(status)}", self._asked_s(response)
                )
            if status in (401, 403):
                raise self.failure(
                    f"{host} answered {_described(status)}: it does not exist, or is not open to "
                    "all; for a gated repository, accept the terms on its page and put a token of "
                    "yours into the variable HF_TOKEN"
                )
            if status in (404, 410):
                what = "repository, or no such revision of it" if self._repository else "file"
                raise self.failure(f"{host} has no such {what} ({_described(status)})")
            raise self.failure(f"{host} answered {_described(status)}")

    def _asked_s(self, response: requests.Response) -> float | None:
        """Seconds that `Retry-After` names, itself or by a date."""
        text = response.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,9}", text):
            return float(text)
        try:
            date = email.utils.parsedate_to_datetime(text)
            return max(
                0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - self._policy.now()
            )
        except (ValueError, OverflowError, OSError):
            return None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what requests raises into a reason to try again, or not to."""
        try:
            yield
        except (InvalidURL, MissingSchema, InvalidSchema, InvalidHeader, UnicodeError) as error:
            raise self.failure(f"that is no address that can be asked ({error})") from error
        except DecodeError as error:
            raise self.failure("it comes compressed in a way that cannot be read") from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self.failure(
                    "the certificate of its host cannot be verified; behind a proxy with one of "
                    "its own, name that in REQUESTS_CA_BUNDLE"
                ) from error
            raise TransientError("the encrypted connection failed") from error
        except (RequestException, HTTPError) as error:
            is_unknown = any(isinstance(each, NameResolutionError) for each in _causes(error))
            is_stubborn = is_unknown and not isinstance(error, ProxyError)
            raise TransientError(self._reason(error), is_stubborn=is_stubborn) from error

    def _reason(self, error: RequestException | HTTPError) -> str:
        inner = _causes(error)
        if isinstance(error, ProxyError):
            return "the proxy cannot be reached or refuses"
        if isinstance(error, ConnectTimeout):
            return f"no connection within {self._policy.connect_s:.0f} s"
        if any(isinstance(each, ReadTimeout | ReadTimeoutError) for each in inner):
            return f"nothing came for {self._policy.silence_s:.0f} s"
        if any(isinstance(each, NameResolutionError) for each in inner):
            mirror = "a mirror is named with --endpoint, a proxy with HTTPS_PROXY"
            advice = mirror if self._repository else "a proxy is named with HTTPS_PROXY"
            return f"{urlsplit(self._url).hostname} is not found (no network?); {advice}"
        if any(isinstance(each, ConnectionRefusedError) for each in inner):
            return f"{_asked(error) or urlsplit(self._url).netloc} refused the connection"
        return "the connection was dropped"


def _asked(error: RequestException | HTTPError) -> str | None:
    """The host that was asked, which a redirect may have named."""
    request = error.request if isinstance(error, RequestException) else None
    return urlsplit(str(request.url)).netloc if request is not None and request.url else None


def _causes(error: BaseException) -> list[BaseException]:
    """What an exception wraps, at any depth: requests and urllib3 do so in several ways."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 20:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [*each.args, each.__cause__, each.__context__, getattr(each, "reason", None)]
    return found


def _described(status: int) -> str:
    """A status with its name: 404 Not Found."""
    import http

    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def is_page(response: requests.Response) -> bool:
    """Tell whether a server says that it sends a web page: to log in, or to accept terms."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml")


def looks_like_page(piece: bytes) -> bool:
    """Tell whether the first bytes of a file are those of a web page."""
    return piece.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html"))


def version_of(response: requests.Response) -> str | None:
    """What tells this version of the file from others, as `If-Range` takes it."""
    tag = response.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{1,500}"', tag):
        return tag
    date = response.headers.get("Last-Modified", "")
    return date if re.fullmatch(r"[A-Za-z0-9 ,:-]{20,40}", date) else None
