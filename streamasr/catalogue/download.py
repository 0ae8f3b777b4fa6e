"""Download of one file: resumable, checked, with a limited number of retries.

The file gets its name when it is complete and its hash is right; until then, any later call
continues where the last one stopped, whatever ended it.

Most failures of connections are temporary. A download gives up after `attempts` failures in a row
without a megabyte of new bytes, or at an answer that waiting does not change.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from streamasr.catalogue.connection import open_session
from streamasr.catalogue.partial_file import Downloaded, PartialFile, already_there
from streamasr.catalogue.remote_file import RemoteFile, is_page, looks_like_page, version_of
from streamasr.catalogue.timeouts import STUBBORN_ATTEMPTS, Pace, Policy, TransientError
from streamasr.core.errors import DownloadError
from streamasr.importing.tensors import Notify, Progress, ignore_notice, ignore_progress

MOST_BYTES: Final = 1 << 36
"""64 GiB: larger than any known model; the limit for files without a stated size."""

_ADVANCE: Final = 1 << 20
"""New bytes after which earlier failures no longer count."""


class OtherFileError(DownloadError):
    """The file is not the expected one."""

    default_code = "file_differs"

    def __init__(self, sentence: str, size: int | None = None, sha256: str | None = None) -> None:
        """Describe the error, with the size and hash of the file that was found, if known."""
        super().__init__(sentence)
        self.size = size
        self.sha256 = sha256


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    limit: int = MOST_BYTES,
    label: str | None = None,
    repository: str | None = None,
    session: requests.Session | None = None,
    policy: Policy | None = None,
    progress: Progress = ignore_progress,
    notice: Notify = ignore_notice,
) -> Downloaded:
    """Download a file, or its missing part.

    Args:
        url: address of the file.
        path: of the result; its directory exists. An existing file is kept if it has the hash, and
            else replaced.
        size: bytes of the file, if known.
        sha256: hash of the file in lower case hexadecimal, if known.
        limit: greatest number of bytes that is accepted.
        label: description for `progress`; by default, that the file is fetched.
        repository: of a hub, if its listing is requested: errors then name it.
        session: from `open_session`; several downloads may share it.
        policy: limits for failures and silence.
        progress: receives the progress.
        notice: receives the reasons for retries.

    Raises:
        OtherFileError: size or hash are not the expected ones.
        DownloadError: the file cannot be downloaded.
        ConfigError: the file cannot be written.
    """
    if sha256 is not None and (found := already_there(path, sha256, progress)):
        return found
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(open_session())
        partial = stack.enter_context(PartialFile(path, url, progress))
        policy = policy or Policy()
        remote = RemoteFile(url, session, policy, repository)
        may_be_page = repository is not None  # listings of a hub are checked elsewhere
        label = label or f"fetching {path.name}"
        wanted = _Wanted(label, size, sha256, limit, may_be_page)
        return _Fetch(wanted, remote, partial, policy, progress=progress, notice=notice).run()


@dataclass(frozen=True, slots=True)
class _Wanted:
    label: str
    size: int | None
    sha256: str | None
    limit: int
    may_be_page: bool


class _Fetch:
    """Attempts to download one file."""

    def __init__(
        self,
        wanted: _Wanted,
        remote: RemoteFile,
        partial: PartialFile,
        policy: Policy,
        *,
        progress: Progress,
        notice: Notify,
    ) -> None:
        self._notice = notice
        self._wanted = wanted
        self._remote = remote
        self._partial = partial
        self._policy = policy
        self._progress = progress
        self._total = wanted.size
        if wanted.size is not None and wanted.size > wanted.limit:
            raise self._remote.failure(
                f"it has {wanted.size} bytes, more than {wanted.limit}", "file_too_large"
            )

    def run(self) -> Downloaded:
        """Retry until the file is complete."""
        self._fetch()
        if not self._is_right() and self._partial.is_patchwork:
            # Parts of several versions of the file may have been put together.
            self._partial.restart()
            self._fetch()
        if not self._is_right():
            size, sha256 = self._partial.position, self._partial.sha256
            self._partial.remove()
            sentence = self._remote.failure(
                f"its SHA-256 is {sha256} instead of {self._wanted.sha256}, so it is not the "
                "expected file; it has been deleted",
                "file_differs",
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
            except TransientError as error:
                if self._partial.furthest >= furthest + _ADVANCE:
                    n_failures, furthest = 0, self._partial.furthest
                n_failures += 1
                self._wait(error, n_failures)

    def _wait(self, error: TransientError, n_failures: int) -> None:
        policy = self._policy
        if n_failures >= policy.attempts or (error.is_stubborn and n_failures >= STUBBORN_ATTEMPTS):
            is_counted = n_failures > 1 and not error.is_stubborn
            times = f", {n_failures} times in a row" if is_counted else ""
            raise self._remote.failure(f"{error}{times}{self._kept()}", error.code) from error
        wait_s = policy.wait_s(n_failures)
        if error.asked_s is not None:
            if error.asked_s > policy.longest_asked_s:
                raise self._remote.failure(
                    f"{error} and asks for a pause of {error.asked_s:.0f} s{self._kept()}",
                    error.code,
                ) from error
            wait_s = max(wait_s, error.asked_s)
        self._notice(f"{self._wanted.label}: {error}; trying again in {wait_s:.0f} s")
        policy.sleep(wait_s)

    def _kept(self) -> str:
        kept = "; the downloaded part is kept, and the same command continues from there"
        return kept if self._partial.position else ""

    def _attempt(self) -> None:
        """Download the rest of the file through one connection.

        Raises:
            TransientError: the connection failed or ended early.
        """
        partial, size = self._partial, self._wanted.size
        if size is not None and partial.position > size:
            partial.restart()
        if partial.position and partial.version is None and self._wanted.sha256 is None:
            partial.restart()  # without a version or hash, the rest might belong to another file
        if size is not None and partial.position == size:
            return
        with self._remote.ask(partial.position, partial.version) as response:
            if partial.position and response.status_code == 416:
                self._check_end(response)
                return
            self._begin(response)
            self._copy(response)

    def _check_end(self, response: requests.Response) -> None:
        """Handle the answer that the file ends here: it is complete, or it has changed."""
        total = re.fullmatch(r"bytes \*/([0-9]{1,18})", response.headers.get("Content-Range", ""))
        if total and int(total[1]) == self._partial.position and self._wanted.size is None:
            return
        self._partial.restart()
        raise TransientError("the file has become shorter", code="file_changed")

    def _begin(self, response: requests.Response) -> None:
        """Read from the answer which part of which version of the file follows."""
        if is_page(response) and not self._wanted.may_be_page:
            raise self._remote.page()
        partial, version = self._partial, version_of(response)
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
            raise TransientError("the file has changed meanwhile", code="file_changed")
        partial.is_patchwork = partial.position > 0
        if found and found[2] != "*":
            self._check_total(int(found[2]))

    def _check_total(self, total: int) -> None:
        wanted = self._wanted
        if wanted.size is not None and total != wanted.size:
            sentence = self._remote.failure(
                f"{total} bytes are announced, it should have {wanted.size}", "file_differs"
            )
            raise OtherFileError(str(sentence), size=total)
        if total > wanted.limit:
            raise self._remote.failure(
                f"{total} bytes are announced, more than {wanted.limit}", "file_too_large"
            )
        self._total = total
        self._partial.check_room(total)

    def _copy(self, response: requests.Response) -> None:
        partial, total = self._partial, self._total
        pace = Pace(self._policy)
        self._report()
        for piece in self._remote.pieces(response):
            if partial.position + len(piece) > (self._wanted.limit if total is None else total):
                partial.restart()
                raise self._remote.failure("more bytes come than were announced", "file_too_large")
            if not partial.position and not self._wanted.may_be_page and looks_like_page(piece):
                raise self._remote.page()
            partial.write(piece)
            self._report()
            if pace.is_hopeless(len(piece)) and partial.position != total:
                raise TransientError("the server sends too slowly", code="server_too_slow")
        if partial.position < (1 if total is None else total):
            raise TransientError("the connection ended early")

    def _report(self) -> None:
        self._progress(self._wanted.label, self._partial.position, self._total or 0)
