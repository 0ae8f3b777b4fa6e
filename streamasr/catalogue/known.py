"""The models that can be downloaded by name: those of known.toml, and those of the settings."""

import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from streamasr.core.errors import ModelError
from streamasr.core.toml_file import read_toml
from streamasr.models.embedded import EMBEDDED

NOTHING: Final = "none"
"""Value in place of the name of an aligner or a punctuation model: none is used."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_REPOSITORY: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*\Z"
_REVISION: Final = r"^[A-Za-z0-9][A-Za-z0-9._/-]*\Z"

_Text = Annotated[str, Meta(max_length=500)]


def check_name(name: str) -> None:
    """Refuse an invalid name of a model, which is also the name of its directory.

    Raises:
        ValueError: the name is hidden, a path, too long, or has a meaning of its own.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a model's name: use at most 100 Latin letters, digits, '.', '_', "
            "'+' and '-', and begin with a letter or digit"
        )
    if name in EMBEDDED:
        raise ValueError(f"{name!r} is the name of an embedded model")
    if name == NOTHING:
        raise ValueError(
            f"{NOTHING!r} cannot be a model's name: it stands for no aligner, no punctuation"
        )


def usable_name(text: str) -> str:
    """Return the valid name that is most similar to a text."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).lstrip("._+-")[:90]
    return name if name and name not in (*EMBEDDED, NOTHING) else f"model-{name}".rstrip("-")


class KnownModel(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A model that `streamasr models pull NAME` downloads, from a `repository` or a `url`."""

    repository: Annotated[str, Meta(pattern=_REPOSITORY, max_length=200)] | None = None
    """Repository at the hub, as OWNER/NAME."""
    revision: Annotated[str, Meta(pattern=_REVISION, max_length=200)] = "main"
    """Branch, tag or commit of that repository."""
    files: tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...] = ()
    """Files to download, as a list of names that may contain `*`; if empty, those that a model
    needs."""
    url: Annotated[str, Meta(max_length=2000)] | None = None
    """Address of one file, a zip or a GGUF, in place of a repository."""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    """SHA-256 of that file; if not set, the first download records it and later ones must match."""
    size: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    """Size of that file in bytes, if known."""
    title: _Text = ""
    """Title of the model."""
    family: _Text | None = None
    """Family of the model, which says whether it recognises, finds the times of words or
    punctuates; see `streamasr models list NAME` of a similar model."""
    parameters: _Text = ""
    """Number of weights, as `0.6B`."""
    languages: tuple[_Text, ...] = ()
    """Languages that the model knows, by their English names."""
    licence: _Text = ""
    """Licence of the weights, as an SPDX name."""

    def __post_init__(self) -> None:
        """Refuse contradictory keys."""
        if (self.repository is None) == (self.url is None):
            raise ValueError("expected either a repository or a url")
        if self.url is None and (self.sha256 or self.size):
            raise ValueError("sha256 and size belong to a url; the hub states its own")
        if self.url is not None:
            if self.files or self.revision != "main":
                raise ValueError("revision and files belong to a repository, not to a url")
            check_url(self.url)
        if self.repository is not None and ".." in self.repository + self.revision:
            raise ValueError("repository and revision must not contain '..'")

    @property
    def source(self) -> str:
        """Repository or address of the model."""
        return self.repository or self.url or ""

    @property
    def file_name(self) -> str:
        """Name of the file at `url`; `download` if the address has none."""
        name = PurePosixPath(urlsplit(self.url or "").path).name
        return name if _NAME.fullmatch(name) else "download"


def family_choices() -> tuple[str, ...]:
    """Return the names of all model families."""
    from streamasr.models.registry import family_names  # here, since it loads numpy

    return family_names()


def check_url(url: str) -> None:
    """Refuse an address that files cannot be downloaded from.

    Raises:
        ValueError: the address is not HTTP, has no host, or contains a password.
    """
    parts = urlsplit(url)
    _ = parts.port  # raises if the port is not a number
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is not an address that begins with https:// or http://")
    if not parts.hostname:
        raise ValueError(f"{url!r} is not an address with a host")
    if "@" in parts.netloc:
        raise ValueError("an address must not contain a user or password")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} contains characters that are not allowed in an address")


@functools.cache
def built_in() -> Mapping[str, KnownModel]:
    """Return the models of known.toml, by name."""
    tables = read_toml(Path(__file__).with_name("known.toml"))
    return msgspec.convert(tables, dict[str, KnownModel])


def known_models(own: Mapping[str, KnownModel]) -> dict[str, KnownModel]:
    """Return all models by name: the built-in ones, then those of the user.

    Args:
        own: models of the settings, which may replace built-in ones.
    """
    return {**built_in(), **own}


def find_known(name: str, own: Mapping[str, KnownModel]) -> KnownModel:
    """Return a known model.

    Raises:
        ModelError: no known model has the name.
    """
    known = known_models(own)
    if name in known:
        return known[name]
    meant = guess(name, known, known) or f"known are: {', '.join(known)}."
    raise ModelError(f"unknown model {name!r}; {meant}", code="unknown_model")


def guess(name: str, names: Collection[str], known: Mapping[str, KnownModel]) -> str | None:
    """Return a question that suggests other names: those of a repository, or similar ones.

    Args:
        name: the name that was not found.
        names: all names.
        known: the known models.
    """
    import difflib

    asked = name.casefold()
    meant = of_repository(name, known)
    if not meant and len(asked) >= _ENOUGH_LETTERS:
        meant = [each for each in names if asked in each.casefold()][:_MOST_GUESSES]
    meant = meant or difflib.get_close_matches(asked, names, n=1)
    return f"did you mean {' or '.join(meant)}?" if meant else None


_ENOUGH_LETTERS: Final = 4
_MOST_GUESSES: Final = 3


def of_repository(name: str, known: Mapping[str, KnownModel]) -> list[str]:
    """Return the names of the models that come from a repository of the hub."""
    asked = name.casefold()
    return [each for each, model in known.items() if (model.repository or "").casefold() == asked]
