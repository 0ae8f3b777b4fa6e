"""A file at an address: requests for it or its missing part, and the reasons for failures."""

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
"""Status codes that may change later."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class RemoteFile:
    """An address that is requested any number of times."""

    def __init__(
        self, url: str, session: requests.Session, policy: Policy, repository: str | None = None
    ) -> None:
        """Prepare; requests nothing yet.

        Args:
            url: the address.
            session: from `open_session`.
            policy: limits for failures and silence.
            repository: of a hub, if its listing is requested: errors then name it.
        """
        self._url = url
        self._repository = repository
        self._session = session
        self._policy = policy

    def ask(self, position: int, version: str | None) -> requests.Response:
        """Return the answer after all redirects, with its body unread.

        The bodies of redirects are not read.

        Args:
            position: bytes that were downloaded already.
            version: of the file that those belong to, if known.

        Raises:
            TransientError: the server does not answer, or its answer may change later.
            DownloadError: the answer is an error that waiting does not change.
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
        raise self.failure("it is redirected again and again", "bad_redirect")

    def pieces(self, response: requests.Response) -> Iterator[bytes]:
        """Yield the body in pieces as they arrive, unpacked if it is compressed.

        Raises:
            TransientError: the connection ended, or no byte came for too long.
            DownloadError: the body cannot be unpacked.
        """
        while True:
            with self._explained():
                # Unlike `read`, this loses nothing when the connection breaks.
                piece = response.raw.read1(_PIECE, decode_content=True)
            if not piece:
                return
            yield piece

    def failure(self, reason: str, code: str) -> DownloadError:
        """Return the error of a download, with its reason."""
        return DownloadError(
            f"{self._repository or self._url} cannot be fetched: {reason}.", code=code
        )

    def page(self) -> DownloadError:
        """Return the error of a web page in place of a file."""
        return DownloadError(
            f"{self._url} sent a web page, not a model; open the address in a browser.",
            code="web_page",
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
            raise self.failure("it is redirected to an invalid address", "bad_redirect") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise self.failure(
                f"it is redirected to {target[:200]!r}, which is not an HTTP address",
                "bad_redirect",
            )
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise self.failure(
                f"it is redirected to {parts.hostname} without encryption", "bad_redirect"
            )
        return target

    def _check(self, response: requests.Response, position: int) -> None:
        """Refuse answers without a file."""
        status = response.status_code
        if status in (200, 206) or (status == 416 and position):
            return
        with response:
            host = urlsplit(response.url).hostname
            if status in _PASSING:
                raise TransientError(
                    f"{host} answered {_described(status)}",
                    self._asked_s(response),
                    code="server_error",
                )
            if status in (401, 403):
                raise self.failure(
                    f"{host} answered {_described(status)}: it does not exist, or is not open to "
                    "all; for a gated repository, accept the terms on its page and put a token of "
                    "yours into the variable HF_TOKEN",
                    "access_denied",
                )
            if status in (404, 410):
                what = "repository, or no such revision of it" if self._repository else "file"
                raise self.failure(f"{host} has no such {what} ({_described(status)})", "not_found")
            raise self.failure(f"{host} answered {_described(status)}", "server_error")

    def _asked_s(self, response: requests.Response) -> float | None:
        """Return the seconds in `Retry-After`, which states them or a date."""
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
        """Turn errors of requests into temporary and permanent failures."""
        try:
            yield
        except (InvalidURL, MissingSchema, InvalidSchema, InvalidHeader, UnicodeError) as error:
            raise self.failure(f"the address is invalid ({error})", "invalid_url") from error
        except DecodeError as error:
            raise self.failure("its compression cannot be read", "bad_compression") from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self.failure(
                    "the certificate of its host cannot be verified; behind a proxy with a "
                    "certificate of its own, name that in REQUESTS_CA_BUNDLE",
                    "certificate_not_verified",
                ) from error
            raise TransientError(
                "the encrypted connection failed", code="connection_failed"
            ) from error
        except (RequestException, HTTPError) as error:
            is_unknown = any(isinstance(each, NameResolutionError) for each in _causes(error))
            is_stubborn = is_unknown and not isinstance(error, ProxyError)
            raise TransientError(
                self._reason(error), code="connection_failed", is_stubborn=is_stubborn
            ) from error

    def _reason(self, error: RequestException | HTTPError) -> str:
        inner = _causes(error)
        if isinstance(error, ProxyError):
            return "the proxy cannot be reached or refused"
        if isinstance(error, ConnectTimeout):
            return f"no connection within {self._policy.connect_s:.0f} s"
        if any(isinstance(each, ReadTimeout | ReadTimeoutError) for each in inner):
            return f"no byte came for {self._policy.silence_s:.0f} s"
        if any(isinstance(each, NameResolutionError) for each in inner):
            mirror = "name a mirror with --endpoint, a proxy with HTTPS_PROXY"
            advice = mirror if self._repository else "name a proxy with HTTPS_PROXY"
            return f"{urlsplit(self._url).hostname} was not found (no network?); {advice}"
        if any(isinstance(each, ConnectionRefusedError) for each in inner):
            return f"{_asked(error) or urlsplit(self._url).netloc} refused the connection"
        return "the connection was dropped"


def _asked(error: RequestException | HTTPError) -> str | None:
    """Return the requested host, which a redirect may have named."""
    request = error.request if isinstance(error, RequestException) else None
    return urlsplit(str(request.url)).netloc if request is not None and request.url else None


def _causes(error: BaseException) -> list[BaseException]:
    """Return the exceptions inside an exception: requests and urllib3 nest them in several ways."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < 20:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [*each.args, each.__cause__, each.__context__, getattr(each, "reason", None)]
    return found


def _described(status: int) -> str:
    """Return a status with its name: 404 Not Found."""
    import http

    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def is_page(response: requests.Response) -> bool:
    """Return whether an answer is a web page by its type: to log in, or to accept terms."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml")


def looks_like_page(piece: bytes) -> bool:
    """Return whether the first bytes of a file are those of a web page."""
    return piece.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html"))


def version_of(response: requests.Response) -> str | None:
    """Return the identifier of this version of the file for `If-Range`."""
    tag = response.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{1,500}"', tag):
        return tag
    date = response.headers.get("Last-Modified", "")
    return date if re.fullmatch(r"[A-Za-z0-9 ,:-]{20,40}", date) else None
