"""Fetching one file: resumable, checked, and patient within bounds.

The file gets its name when all of it is there and its hash is right; until then any later call goes
on where the last one stopped, whatever ended it.

A connection fails for many reasons and most of them pass. What counts is whether bytes that were
never seen before still come: after `attempts` failures in a row without a megabyte of them, or on
an answer that waiting does not change, there is one sentence about it.
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
from streamasr.importing.tensors import Notice, Progress, silent, unheard

MOST_BYTES: Final = 1 << 36
"""64 GiB: no model that we know is larger, and no file without a stated size may be."""

_ADVANCE: Final = 1 << 20
"""New bytes that make earlier failures forgotten."""


class OtherFileError(DownloadError):
    """It is not the file that was meant."""

    def __init__(self, sentence: str, size: int | None = None, sha256: str | None = None) -> None:
        """Keep what was found in its place, as far as it is known."""
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
    progress: Progress = silent,
    notice: Notice = unheard,
) -> Downloaded:
    """Fetch a file, or what is missing of it.

    Args:
        url: its address.
        path: what it will be called; its directory exists. A file that is there already is taken
            as it is if it has this hash, and else replaced.
        size: its bytes, where they are known.
        sha256: its hash in lower case hexadecimal, where it is known.
        limit: bytes that are never exceeded, whatever the server sends.
        label: what `progress` is told that is done; by default that its name is fetched.
        repository: of a hub, if that is what is asked for: then errors are about it.
        session: from `open_session`, which several downloads may share.
        policy: how patient to be.
        progress: told how far it is.
        notice: told what is being waited for.

    Raises:
        OtherFileError: it is not what it should be.
        DownloadError: it cannot be had.
        ConfigError: it cannot be written.
    """
    if sha256 is not None and (found := already_there(path, sha256, progress)):
        return found
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(open_session())
        partial = stack.enter_context(PartialFile(path, url, progress))
        policy = policy or Policy()
        remote = RemoteFile(url, session, policy, repository)
        may_be_page = repository is not None  # a hub's own answers are looked at elsewhere
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
    """The tries at one file."""

    def __init__(
        self,
        wanted: _Wanted,
        remote: RemoteFile,
        partial: PartialFile,
        policy: Policy,
        *,
        progress: Progress,
        notice: Notice,
    ) -> None:
        self._notice = notice
        self._wanted = wanted
        self._remote = remote
        self._partial = partial
        self._policy = policy
        self._progress = progress
        self._total = wanted.size
        if wanted.size is not None and wanted.size > wanted.limit:
            raise self._remote.failure(f"it has {wanted.size} bytes, more than {wanted.limit}")

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
            sentence = self._remote.failure(
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
            raise self._remote.failure(f"{error}{times}{self._kept()}") from error
        wait_s = policy.wait_s(n_failures)
        if error.asked_s is not None:
            if error.asked_s > policy.longest_asked_s:
                raise self._remote.failure(
                    f"{error} and asks to be left alone for {error.asked_s:.0f} s{self._kept()}"
                ) from error
            wait_s = max(wait_s, error.asked_s)
        self._notice(f"{self._wanted.label}: {error}; trying again in {wait_s:.0f} s")
        policy.sleep(wait_s)

    def _kept(self) -> str:
        kept = "; what has come is kept, and the same command goes on from there"
        return kept if self._partial.position else ""

    def _attempt(self) -> None:
        """One connection, up to the end of the file.

        Raises:
            TransientError: it ended early.
        """
        partial, size = self._partial, self._wanted.size
        if size is not None and partial.position > size:
            partial.restart()
        if partial.position and partial.version is None and self._wanted.sha256 is None:
            partial.restart()  # nothing would tell whether the rest belongs to it
        if size is not None and partial.position == size:
            return
        with self._remote.ask(partial.position, partial.version) as response:
            if partial.position and response.status_code == 416:
                self._check_end(response)
                return
            self._begin(response)
            self._copy(response)

    def _check_end(self, response: requests.Response) -> None:
        """Nothing lies behind what we have: either that was all, or it is of another version."""
        total = re.fullmatch(r"bytes \*/([0-9]{1,18})", response.headers.get("Content-Range", ""))
        if total and int(total[1]) == self._partial.position and self._wanted.size is None:
            return
        self._partial.restart()
        raise TransientError("the file has become shorter")

    def _begin(self, response: requests.Response) -> None:
        """Find out which part of which version of the file comes."""
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
            raise TransientError("the file has changed meanwhile")
        partial.is_patchwork = partial.position > 0
        if found and found[2] != "*":
            self._check_total(int(found[2]))

    def _check_total(self, total: int) -> None:
        wanted = self._wanted
        if wanted.size is not None and total != wanted.size:
            sentence = self._remote.failure(
                f"{total} bytes are announced, it should have {wanted.size}"
            )
            raise OtherFileError(str(sentence), size=total)
        if total > wanted.limit:
            raise self._remote.failure(f"{total} bytes are announced, more than {wanted.limit}")
        self._total = total
        self._partial.check_room(total)

    def _copy(self, response: requests.Response) -> None:
        partial, total = self._partial, self._total
        pace = Pace(self._policy)
        self._tell()
        for piece in self._remote.pieces(response):
            if partial.position + len(piece) > (self._wanted.limit if total is None else total):
                partial.restart()
                raise self._remote.failure("more bytes come than were announced")
            if not partial.position and not self._wanted.may_be_page and looks_like_page(piece):
                raise self._remote.page()
            partial.write(piece)
            self._tell()
            if pace.is_hopeless(len(piece)) and partial.position != total:
                raise TransientError("hardly anything comes")
        if partial.position < (1 if total is None else total):
            raise TransientError("the connection ended early")

    def _tell(self) -> None:
        self._progress(self._wanted.label, self._partial.position, self._total or 0)
