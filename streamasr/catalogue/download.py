"""Fetching one file: resumable, checked, and patient within bounds.

What has come stands in `FILE.partial`, and beside it in `FILE.partial.json` which version of the
file that is. The file gets its name when all of it is there and its hash is right; until then any
later call goes on where the last one stopped, whatever ended it.

A connection fails for many reasons and most of them pass. What counts is whether bytes that were
never seen before still come: after `attempts` failures in a row without a megabyte of them, or on
an answer that waiting does not change, there is one sentence about it.
"""

import contextlib
import email.utils
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
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

from streamasr import __version__
from streamasr.errors import ConfigError, DownloadError
from streamasr.importing.tensors import Progress, silent

MOST_BYTES: Final = 1 << 36
"""64 GiB: no model that we know is larger, and no file without a stated size may be."""

_PIECE: Final = 1 << 17
_ADVANCE: Final = 1 << 20
"""New bytes that make earlier failures forgotten."""

_SLOWEST: Final = 100
"""Bytes per second; a server that sends less hardly means it."""

_MOST_REDIRECTS: Final = 10
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be another one later."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class OtherFileError(DownloadError):
    """It is not the file that was meant."""

    def __init__(self, sentence: str, size: int | None = None, sha256: str | None = None) -> None:
        """Keep what was found in its place, as far as it is known."""
        super().__init__(sentence)
        self.size = size
        self.sha256 = sha256


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a download is."""

    connect_s: float = 15.0
    silence_s: float = 30.0
    """Without a byte; then the connection counts as dead."""
    attempts: int = 6
    first_wait_s: float = 1.0
    """Doubles with each failure in a row, up to `longest_wait_s`."""
    longest_wait_s: float = 60.0
    longest_asked_s: float = 300.0
    """A server that asks for more patience than this (`Retry-After`) is told no."""
    sleep: Callable[[float], object] = time.sleep
    chance: Callable[[], float] = random.random
    """0..1, which spreads the tries of many clients."""
    now: Callable[[], float] = time.time

    def wait_s(self, n_failures: int) -> float:
        """How long to wait after so many failures in a row."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(n_failures - 1, 30))
        return longest * (0.5 + 0.5 * self.chance())


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that has come whole."""

    path: Path
    size: int
    sha256: str


class _PassingError(Exception):
    """It did not work this time."""

    def __init__(self, reason: str, asked_s: float | None = None) -> None:
        """Say why, and how long the server asks to be left alone."""
        super().__init__(reason)
        self.asked_s = asked_s


class _Token(AuthBase):
    """Shows a token to one host, and to no other that this one may redirect to."""

    def __init__(self, endpoint: str, token: str | None) -> None:
        self._endpoint = _origin(endpoint)
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token and _origin(request.url or "") == self._endpoint:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    """Leaves redirects to us: requests would read their bodies, however long, into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """See none."""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def open_session(endpoint: str = "", token: str | None = None) -> requests.Session:
    """Connections that honour the environment's proxies and certificates.

    Args:
        endpoint: where `token` belongs.
        token: what opens gated repositories.
    """
    session = _Session()
    # An `auth` of our own also keeps requests from sending what ~/.netrc holds.
    session.auth = _Token(endpoint, token)
    session.headers["User-Agent"] = f"streamasr/{__version__}"
    # Sizes, ranges and hashes are those of the file as it is, not of a compressed one.
    session.headers["Accept-Encoding"] = "identity"
    return session


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    limit: int = MOST_BYTES,
    label: str | None = None,
    session: requests.Session | None = None,
    policy: Policy | None = None,
    progress: Progress = silent,
) -> Downloaded:
    """Fetch a file, or what is missing of it.

    Args:
        url: its address.
        path: what it will be called; its directory exists. A file that is there already is taken
            as it is if it has this hash, and else replaced.
        size: its bytes, where they are known.
        sha256: its hash in lower case hexadecimal, where it is known.
        limit: bytes that are never exceeded, whatever the server sends.
        label: what `progress` is told that it is; by default its name.
        session: from `open_session`, which several downloads may share.
        policy: how patient to be.
        progress: told how far it is, and what is being waited for.

    Raises:
        OtherFileError: it is not what it should be.
        DownloadError: it cannot be had.
        ConfigError: it cannot be written.
    """
    if sha256 is not None and (found := _already_there(path, sha256, progress)):
        return found
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(open_session())
        partial = stack.enter_context(_Partial(path, url, progress))
        wanted = _Wanted(url, label or path.name, size, sha256, limit)
        return _Fetch(wanted, partial, session, policy or Policy(), progress).run()


def _already_there(path: Path, sha256: str, progress: Progress) -> Downloaded | None:
    with _on_disk(path):
        if not path.is_file():
            return None
        size = path.stat().st_size
        with path.open("rb") as file:
            found = _hash(file.fileno(), size, path.name, progress).hexdigest()
    return Downloaded(path, size, sha256) if found == sha256 else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    url: str
    name: str
    size: int | None
    sha256: str | None
    limit: int


class _Fetch:
    """The tries at one file."""

    def __init__(
        self,
        wanted: _Wanted,
        partial: "_Partial",
        session: requests.Session,
        policy: Policy,
        progress: Progress,
    ) -> None:
        self._wanted = wanted
        self._partial = partial
        self._session = session
        self._policy = policy
        self._progress = progress
        self._total = wanted.size
        if wanted.size is not None and wanted.size > wanted.limit:
            raise self._failure(f"it has {wanted.size} bytes, more than {wanted.limit}")

    def run(self) -> Downloaded:
        """Try until it is there."""
        self._fetch()
        if not self._is_right() and self._partial.is_patchwork:
            # Parts from several versions of the file may have come together.
            self._partial.restart()
            self._fetch()
        if not self._is_right():
            size, sha256 = self._partial.position, self._partial.sha256
            self._partial.remove()
            sentence = self._failure(
                f"its SHA-256 is {sha256} instead of {self._wanted.sha256}, so it is not the file "
                "that was meant; it has been deleted"
            )
            raise OtherFileError(str(sentence), size, sha256)
        return self._partial.finish()

    def _is_right(self) -> bool:
        return self._wanted.sha256 in (None, self._partial.sha256)

    def _fetch(self) -> None:
        n_failures, furthest = 0, self._partial.position
        while True:
            try:
                return self._attempt()
            except _PassingError as error:
                if self._partial.furthest >= furthest + _ADVANCE:
                    n_failures, furthest = 0, self._partial.furthest
                n_failures += 1
                self._wait(error, n_failures)

    def _wait(self, error: _PassingError, n_failures: int) -> None:
        policy = self._policy
        if n_failures >= policy.attempts:
            times = f", {n_failures} times in a row" if n_failures > 1 else ""
            raise self._failure(f"{error}{times}{self._kept()}") from error
        wait_s = policy.wait_s(n_failures)
        if error.asked_s is not None:
            if error.asked_s > policy.longest_asked_s:
                raise self._failure(
                    f"{error} and asks to be left alone for {error.asked_s:.0f} s{self._kept()}"
                ) from error
            wait_s = max(wait_s, error.asked_s)
        self._tell(f"{self._wanted.name}: {error}; trying again in {wait_s:.0f} s")
        policy.sleep(wait_s)

    def _kept(self) -> str:
        kept = "; what has come is kept, and the same command goes on from there"
        return kept if self._partial.position else ""

    def _attempt(self) -> None:
        """One connection, up to the end of the file.

        Raises:
            _PassingError: it ended early.
        """
        partial, size = self._partial, self._wanted.size
        if size is not None and partial.position > size:
            partial.restart()
        if partial.position and partial.version is None and self._wanted.sha256 is None:
            partial.restart()  # nothing would tell whether the rest belongs to it
        if size is not None and partial.position == size:
            return
        with self._ask(partial.position) as response:
            if partial.position and response.status_code == 416:
                self._check_end(response)
                return
            self._begin(response)
            self._copy(response)

    def _ask(self, position: int) -> requests.Response:
        """The answer at the end of all redirects, with its body still to come.

        The body of a redirect, of any length, is not read.
        """
        headers = {}
        if position:
            headers["Range"] = f"bytes={position}-"
            if self._partial.version:
                headers["If-Range"] = self._partial.version
        url = self._wanted.url
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._get(url, headers)
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                self._check(response)
                return response
            with response:
                url = self._target(url, response.headers["Location"])
        raise self._failure("it is redirected again and again")

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
            raise self._failure("it is redirected to what is no address") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise self._failure(f"it is redirected to {target[:200]!r}, which is not of the web")
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise self._failure(f"it is redirected to {parts.hostname} without encryption")
        return target

    def _check(self, response: requests.Response) -> None:
        """Refuse answers that bring no file."""
        status = response.status_code
        if status in (200, 206) or (status == 416 and self._partial.position):
            return
        with response:
            host = urlsplit(response.url).hostname
            if status in _PASSING:
                raise _PassingError(
                    f"{host} answered {_described(status)}", self._asked_s(response)
                )
            if status in (401, 403):
                raise self._failure(
                    f"{host} answered {_described(status)}: it does not exist, or is not open to "
                    "all; for a gated repository, accept the terms on its page and put a token of "
                    "yours into the variable HF_TOKEN"
                )
            if status in (404, 410):
                raise self._failure(f"{host} has no such file ({_described(status)})")
            raise self._failure(f"{host} answered {_described(status)}")

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

    def _check_end(self, response: requests.Response) -> None:
        """Nothing lies behind what we have: either that was all, or it is of another version."""
        total = re.fullmatch(r"bytes \*/([0-9]{1,18})", response.headers.get("Content-Range", ""))
        if total and int(total[1]) == self._partial.position and self._wanted.size is None:
            return
        self._partial.restart()
        raise _PassingError("the file has become shorter")

    def _begin(self, response: requests.Response) -> None:
        """Find out which part of which version of the file comes."""
        partial, version = self._partial, _version(response)
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        announced = response.headers.get("Content-Length", "")
        self._total = self._wanted.size
        if response.status_code == 206:
            self._check_range(response, version)
        else:
            partial.restart()
            if encoding == "identity" and re.fullmatch(r"[0-9]{1,18}", announced):
                self._check_total(int(announced))
        if partial.position == 0:
            partial.begin(version if encoding == "identity" else None)

    def _check_range(self, response: requests.Response, version: str | None) -> None:
        partial = self._partial
        found = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)",
            response.headers.get("Content-Range", ""),
        )
        is_same = None in (version, partial.version) or version == partial.version
        is_continued = found is not None and int(found[1]) == partial.position
        if not is_same or not is_continued:
            partial.restart()
            raise _PassingError("the file has changed meanwhile")
        partial.is_patchwork = partial.position > 0
        if found and found[2] != "*":
            self._check_total(int(found[2]))

    def _check_total(self, total: int) -> None:
        wanted = self._wanted
        if wanted.size is not None and total != wanted.size:
            sentence = self._failure(f"{total} bytes are announced, it should have {wanted.size}")
            raise OtherFileError(str(sentence), size=total)
        if total > wanted.limit:
            raise self._failure(f"{total} bytes are announced, more than {wanted.limit}")
        self._total = total
        self._partial.check_room(total)

    def _copy(self, response: requests.Response) -> None:
        partial, total = self._partial, self._total
        pace = _Pace(self._policy)
        self._tell(self._wanted.name)
        for piece in self._pieces(response):
            if partial.position + len(piece) > (self._wanted.limit if total is None else total):
                partial.restart()
                raise self._failure("more bytes come than were announced")
            partial.write(piece)
            self._tell(self._wanted.name)
            if pace.is_hopeless(len(piece)) and partial.position != total:
                raise _PassingError("hardly anything comes")
        if partial.position < (1 if total is None else total):
            raise _PassingError("the connection ended early")

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        """The body, unpacked if it is compressed, in pieces as they come."""
        while True:
            with self._explained():
                # Other than `read`, this loses nothing when the connection breaks.
                piece = response.raw.read1(_PIECE, decode_content=True)
            if not piece:
                return
            yield piece

    def _tell(self, what: str) -> None:
        self._progress(what, self._partial.position, self._total or 0)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what requests raises into a reason to try again, or not to."""
        try:
            yield
        except (InvalidURL, MissingSchema, InvalidSchema, InvalidHeader, UnicodeError) as error:
            raise self._failure(f"that is no address that can be asked ({error})") from error
        except DecodeError as error:
            raise self._failure("it comes compressed in a way that cannot be read") from error
        except SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise self._failure(
                    "the certificate of its host cannot be verified; behind a proxy with one of "
                    "its own, name that in REQUESTS_CA_BUNDLE"
                ) from error
            raise _PassingError("the encrypted connection failed") from error
        except (RequestException, HTTPError) as error:
            raise _PassingError(self._reason(error)) from error

    def _reason(self, error: RequestException | HTTPError) -> str:
        inner = _causes(error)
        if isinstance(error, ProxyError):
            return "the proxy cannot be reached or refuses"
        if isinstance(error, ConnectTimeout):
            return f"no connection within {self._policy.connect_s:.0f} s"
        if any(isinstance(each, ReadTimeout | ReadTimeoutError) for each in inner):
            return f"nothing came for {self._policy.silence_s:.0f} s"
        if any(isinstance(each, NameResolutionError) for each in inner):
            return f"{urlsplit(self._wanted.url).hostname} is not found (no network?)"
        if any(isinstance(each, ConnectionRefusedError) for each in inner):
            return "the connection was refused"
        return "the connection was dropped"

    def _failure(self, reason: str) -> DownloadError:
        return DownloadError(f"{self._wanted.url} cannot be fetched: {reason}.")


class _Pace:
    """Notices a server that sends a byte now and then, which no time limit of a read does."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._since = policy.now()
        self._n_bytes = 0

    def is_hopeless(self, n_bytes: int) -> bool:
        """So many more have come; whether that is too little for the time that has passed."""
        self._n_bytes += n_bytes
        seconds = self._policy.now() - self._since
        if seconds <= 2 * self._policy.silence_s:
            return False
        is_slow = self._n_bytes < _SLOWEST * seconds
        self._since, self._n_bytes = self._since + seconds, 0
        return is_slow


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


def _version(response: requests.Response) -> str | None:
    """What tells this version of the file from others, as `If-Range` takes it."""
    tag = response.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{1,500}"', tag):
        return tag
    date = response.headers.get("Last-Modified", "")
    return date if re.fullmatch(r"[A-Za-z0-9 ,:-]{20,40}", date) else None


class _Partial:
    """What there is of a file so far. One process at a time has it."""

    def __init__(self, path: Path, url: str, progress: Progress) -> None:
        self._final = path
        self._path = path.with_name(f"{path.name}.partial")
        self._note = path.with_name(f"{path.name}.partial.json")
        self._url = url
        self._progress = progress
        self._fd = -1
        self.position = 0
        """Bytes that are there."""
        self.furthest = 0
        """Bytes that there have ever been."""
        self.version: str | None = None
        self.is_patchwork = False
        """Whether not all of it came through one connection."""

    def __enter__(self) -> Self:
        """Take it over from an earlier call, if there was one."""
        with _on_disk(self._path):
            self._fd = self._open()
            try:
                self.position = self.furthest = os.lseek(self._fd, 0, os.SEEK_END)
                self.is_patchwork = self.position > 0
                self.version = self._noted_version()
                self._digest = _hash(self._fd, self.position, self._final.name, self._progress)
            except BaseException:
                os.close(self._fd)
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _on_disk(self._path):
            if self._fd >= 0 and self.position == 0 and kind is not None:
                self._path.unlink(missing_ok=True)
                self._note.unlink(missing_ok=True)
            self._close()

    def _open(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it may have given it its name just now.
                if os.path.samestat(os.fstat(fd), self._path.lstat()):
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError as error:
                os.close(fd)
                raise DownloadError(
                    f"{self._final} is being fetched by another process."
                ) from error
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _noted_version(self) -> str | None:
        try:
            note = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(note, dict) or note.get("url") != self._url:
            return None
        version = note.get("version")
        return version if isinstance(version, str) and version.isprintable() else None

    @property
    def sha256(self) -> str:
        """Of what is there."""
        return self._digest.hexdigest()

    def begin(self, version: str | None) -> None:
        """Note which version of the file comes now, from its beginning."""
        self.version = version
        with _on_disk(self._note):
            if version is None:
                self._note.unlink(missing_ok=True)
            else:
                self._note.write_text(json.dumps({"url": self._url, "version": version}), "utf-8")

    def write(self, piece: bytes) -> None:
        """Put more behind what is there."""
        rest = memoryview(piece)
        with _on_disk(self._final):
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self._digest.update(piece)
        self.position += len(piece)
        self.furthest = max(self.furthest, self.position)

    def restart(self) -> None:
        """Forget what is there."""
        with _on_disk(self._path):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.begin(None)
        self._digest = hashlib.sha256()
        self.position = 0
        self.is_patchwork = False

    def check_room(self, total: int) -> None:
        """Find out before it is written whether the file fits.

        Raises:
            ConfigError: it does not.
        """
        with _on_disk(self._final):
            free = shutil.disk_usage(self._final.parent).free
        if total - self.position > free:
            raise ConfigError(
                f"{self._final.parent}: {(total - self.position) / 1e9:.1f} GB are to be written, "
                f"and only {free / 1e9:.1f} GB are free."
            )

    def remove(self) -> None:
        """Leave nothing of it."""
        with _on_disk(self._path):
            self._path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
            self._close()

    def finish(self) -> Downloaded:
        """Give the file its name."""
        with _on_disk(self._final):
            os.fsync(self._fd)
            self._path.replace(self._final)
            self._note.unlink(missing_ok=True)
            self._close()
        return Downloaded(self._final, self.position, self.sha256)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _hash(fd: int, size: int, name: str, progress: Progress) -> "hashlib._Hash":
    """The hash of what an open file holds; its position is then behind it."""
    digest, done = hashlib.sha256(), 0
    os.lseek(fd, 0, os.SEEK_SET)
    while done < size and (piece := os.read(fd, min(_PIECE, size - done))):
        digest.update(piece)
        done += len(piece)
        progress(f"checking what is there of {name}", done, size)
    return digest


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """Explain what a file system refuses.

    Raises:
        ConfigError: it did.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
