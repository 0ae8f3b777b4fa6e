"""Repositories of a model hub, through its public HTTP interface.

    ENDPOINT/api/models/REPOSITORY/revision/REVISION?blobs=true   names, sizes and hashes of files
    ENDPOINT/REPOSITORY/resolve/COMMIT/FILE                       a file; it may be redirected

All files are downloaded from the commit that the listing names, so that a push meanwhile does no
harm.

The package huggingface_hub (read in version 2.4.0) is not used: it takes a file's hash as a name
for its cache but never computes it, and a file counts as right if its size is; it retries after a
second, up to five times, whatever was answered, and starts over on a server that only ever sends
half; it knows only the hub, while releases elsewhere are plain zips; and its cache would store
every model twice. The two requests above are sufficient.
"""

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
import requests
from msgspec import Meta

from streamasr.catalogue.download import download
from streamasr.catalogue.known import check_url
from streamasr.catalogue.remote_file import looks_like_page
from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import ConfigError, DownloadError
from streamasr.importing.tensors import Notice, Progress, silent, unheard

ENDPOINT_VARIABLE: Final = "HF_ENDPOINT"
TOKEN_VARIABLE: Final = "HF_TOKEN"  # noqa: S105 - its name, not its value

_LONGEST_LISTING: Final = 1 << 24
_MOST_FILES: Final = 1000
"""Files of one model; the largest known has three files of weights."""

_LONGEST_NAME: Final = 200
"""Bytes; file systems take 255, and `.partial.json` is appended during the download."""

_CHECKPOINT: Final = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "model.safetensors.index.json",
    "*.safetensors",
)
"""Files of a model in the form of transformers; not every model has all of them."""

_DOCUMENTS: Final = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*")
"""Files that state the licence; recognition does not depend on them."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository."""

    name: str
    """Relative path."""
    size: int | None
    sha256: str | None
    """The hub states it for large files only."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    endpoint: str
    repository: str
    commit: str
    files: tuple[HubFile, ...]

    def url(self, file: HubFile) -> str:
        """Return the address of a file."""
        name = quote(file.name)
        return f"{self.endpoint}/{self.repository}/resolve/{self.commit}/{name}"


_Size = Annotated[int, Meta(ge=0, le=1 << 50)]


class _Lfs(msgspec.Struct):
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: _Size


class _Sibling(msgspec.Struct):
    rfilename: Annotated[str, Meta(min_length=1, max_length=500)]
    size: _Size | None = None
    lfs: _Lfs | None = None


class _Listing(msgspec.Struct):
    sha: Annotated[str, Meta(pattern=r"^[0-9a-f]{7,64}\Z")]
    siblings: list[_Sibling]


def find_endpoint(configured: str, asked: str | None = None) -> str:
    """Return the hub's address: of the command line, else HF_ENDPOINT, else of the settings.

    Raises:
        ConfigError: the address is invalid.
    """
    environment = os.environ.get(ENDPOINT_VARIABLE, "").strip()
    endpoint = asked or environment or configured
    try:
        check_url(endpoint)
    except ValueError as error:
        where = "--endpoint" if asked else ENDPOINT_VARIABLE if environment else "download.endpoint"
        raise ConfigError(f"{where}: {error}.", code="invalid_url") from error
    return endpoint.rstrip("/")


def find_token() -> str | None:
    """Return the access token for gated repositories, from HF_TOKEN.

    Raises:
        ConfigError: the value is not a token.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and not re.fullmatch(r"[!-~]{1,500}", token):
        raise ConfigError(
            f"{TOKEN_VARIABLE} does not hold a token: 1 to 500 printable ASCII characters.",
            code="token_malformed",
        )
    return token or None


def read_snapshot(
    endpoint: str,
    repository: str,
    revision: str,
    scratch: Path,
    *,
    session: requests.Session | None = None,
    policy: Policy | None = None,
    progress: Progress = silent,
    notice: Notice = unheard,
) -> Snapshot:
    """Request the list of a repository's files.

    Args:
        endpoint: the hub's address, without a slash at its end.
        repository: OWNER/NAME.
        revision: a branch, tag or commit.
        scratch: a directory for a temporary file.
        session: see `download`.
        policy: see `download`.
        progress: see `download`.
        notice: see `download`.

    Raises:
        DownloadError: the hub does not answer, or its answer is not a listing.
        ConfigError: `scratch` cannot be written.
    """
    url = f"{endpoint}/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    path = scratch / ".listing.json"
    try:
        download(
            url,
            path,
            limit=_LONGEST_LISTING,
            label=f"asking for {repository}",
            repository=repository,
            session=session,
            policy=policy,
            progress=progress,
            notice=notice,
        )
        return Snapshot(endpoint, repository, *_parse(path.read_bytes()))
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DownloadError(
            f"{endpoint} does not answer for {repository} as a model hub does: {error}.",
            code="not_a_hub",
        ) from error
    finally:
        path.unlink(missing_ok=True)


def _parse(answer: bytes) -> tuple[str, tuple[HubFile, ...]]:
    if looks_like_page(answer):
        raise ValueError("it sends a web page")
    listing = msgspec.json.decode(answer, type=_Listing)
    files = {}
    for each in listing.siblings:
        size = each.lfs.size if each.lfs else each.size
        files[each.rfilename] = HubFile(each.rfilename, size, each.lfs.sha256 if each.lfs else None)
    return listing.sha, tuple(files.values())


def check_file_name(repository: str, name: str) -> None:
    """Refuse the name of a file outside the model's directory.

    Raises:
        DownloadError: the name leads out of the directory, is not printable, or too long.
    """
    parts = PurePosixPath(name).parts
    is_plain = name.isprintable() and not {"\\", ":"} & {*name} and "/".join(parts) == name
    if not is_plain or not parts or name[0] == "/" or ".." in parts:
        raise DownloadError(
            f"{repository} names a file {name!r}, which would be outside its directory.",
            code="unsafe_file_name",
        )
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise DownloadError(
            f"{repository} has a file whose name is too long: {name[:40]!r}...",
            code="file_name_too_long",
        )


def choose_files(snapshot: Snapshot, patterns: Sequence[str] = ()) -> list[HubFile]:
    """Return the files of a repository that a model needs.

    Args:
        snapshot: of the repository.
        patterns: names that may contain `*`; if empty, the files are chosen by their kind.

    Raises:
        DownloadError: the repository has no model, or several.
    """
    if patterns:
        return _choose_named(snapshot, patterns)
    top = [file for file in snapshot.files if "/" not in file.name]
    chosen = [file for file in top if is_match(file.name, _CHECKPOINT + _DOCUMENTS)]
    if any(file.name.endswith(".safetensors") for file in chosen):
        return _bounded(snapshot, chosen)
    ggufs = [file for file in top if file.name.endswith(".gguf")]
    texts = [file.name for file in ggufs if not file.name.startswith("mmproj")]
    if not ggufs:
        raise DownloadError(
            f"{snapshot.repository} contains neither safetensors nor a GGUF, so it cannot be "
            "imported.",
            code="repository_without_model",
        )
    if len(texts) > 1 or len(ggufs) - len(texts) > 1:
        raise DownloadError(
            f"{snapshot.repository} contains several models: choose in `files` of [models.NAME] "
            f"among {', '.join(file.name for file in ggufs[:20])}.",
            code="several_models",
        )
    return _bounded(snapshot, ggufs + [file for file in top if is_document(file.name)])


def _choose_named(snapshot: Snapshot, patterns: Sequence[str]) -> list[HubFile]:
    for pattern in patterns:
        if not any(is_match(file.name, [pattern]) for file in snapshot.files):
            raise DownloadError(
                f"{snapshot.repository} has no file {pattern!r} at commit {snapshot.commit[:12]}.",
                code="not_found",
            )
    return _bounded(
        snapshot,
        [file for file in snapshot.files if is_match(file.name, [*patterns, *_DOCUMENTS])],
    )


def _bounded(snapshot: Snapshot, files: list[HubFile]) -> list[HubFile]:
    if len(files) > _MOST_FILES:
        raise DownloadError(
            f"{snapshot.repository} has {len(files)} files, more than a model can have "
            f"({_MOST_FILES}); name the needed ones in `files` of [models.NAME].",
            code="too_many_files",
        )
    for file in files:
        check_file_name(snapshot.repository, file.name)
    return files


def is_match(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns, where `*` stands for any characters."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_document(name: str) -> bool:
    """Return whether a file only describes the model."""
    return is_match(name, _DOCUMENTS)
