"""The models that can be fetched by name: those of known.toml, and those of a configuration."""

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

EMBEDDED: Final = "tiny"
"""The model that comes with the package; no other can have its name."""

NOTHING: Final = "none"
"""In place of an aligner's name: there shall be none."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_REPOSITORY: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*\Z"
_REVISION: Final = r"^[A-Za-z0-9][A-Za-z0-9._/-]*\Z"

_Text = Annotated[str, Meta(max_length=500)]


def check_name(name: str) -> None:
    """Refuse what cannot be the name of a model, which is also that of a directory.

    Raises:
        ValueError: it is hidden, a path, too long, or has a meaning of its own.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a model's name: Latin letters, digits, '.', '_', '+' and '-' can "
            "stand in it, 100 at most, and a letter or digit comes first"
        )
    if name == EMBEDDED:
        raise ValueError(f"{EMBEDDED!r} is the name of the embedded model")
    if name == NOTHING:
        raise ValueError(f"{NOTHING!r} cannot be a model's name: as an aligner it means no aligner")


def usable_name(text: str) -> str:
    """The name for a model that comes nearest to a text."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", text).lstrip("._+-")[:90]
    return name if name and name not in (EMBEDDED, NOTHING) else f"model-{name}".rstrip("-")


class KnownModel(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A model that `streamasr models pull NAME` fetches, from a `repository` or a `url`."""

    repository: Annotated[str, Meta(pattern=_REPOSITORY, max_length=200)] | None = None
    """Its repository at the hub, as OWNER/NAME."""
    revision: Annotated[str, Meta(pattern=_REVISION, max_length=200)] = "main"
    """Branch, tag or commit of that repository."""
    files: tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...] = ()
    """Which of its files are fetched, as a list of names that may hold `*`; left out, those that
    make a model."""
    url: Annotated[str, Meta(max_length=2000)] | None = None
    """In place of a repository: the address of one file, a zip or a GGUF."""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    """SHA-256 of that file; left out, the first download records it and later ones must match."""
    size: Annotated[int, Meta(ge=1, le=1 << 40)] | None = None
    """Bytes of that file, where they are known."""
    title: _Text = ""
    """What the model is called."""
    family: _Text | None = None
    """Family of the model, which says whether it recognises or finds the times of words; see
    `streamasr models list NAME` of a similar model."""
    parameters: _Text = ""
    """How many weights it has, as `0.6B`."""
    languages: tuple[_Text, ...] = ()
    """The languages that it knows, by their English names."""
    licence: _Text = ""
    """What its weights may be used for, as an SPDX name."""

    def __post_init__(self) -> None:
        """Refuse a source that cannot be."""
        if (self.repository is None) == (self.url is None):
            raise ValueError("expected either a repository or a url")
        if self.url is None and (self.sha256 or self.size):
            raise ValueError("sha256 and size are of a url; the hub announces its own")
        if self.url is not None:
            if self.files or self.revision != "main":
                raise ValueError("revision and files are of a repository, not of a url")
            check_url(self.url)
        if self.repository is not None and ".." in self.repository + self.revision:
            raise ValueError("repository and revision hold no '..'")

    @property
    def source(self) -> str:
        """Where it comes from, in a few words."""
        return self.repository or self.url or ""

    @property
    def file_name(self) -> str:
        """What the file at `url` is called; `download` if the address does not say."""
        name = PurePosixPath(urlsplit(self.url or "").path).name
        return name if _NAME.fullmatch(name) else "download"


def family_choices() -> tuple[str, ...]:
    """Return the names of all model families."""
    from streamasr.models.registry import family_names  # here, since it loads numpy

    return family_names()


def check_url(url: str) -> None:
    """Refuse an address that no file can be fetched from.

    Raises:
        ValueError: it is not of the web, has no host, or holds a password.
    """
    parts = urlsplit(url)
    _ = parts.port  # which is looked at only now, and may be no number
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is no address; it begins with https:// or http://")
    if not parts.hostname:
        raise ValueError(f"{url!r} is no address; it names no host")
    if "@" in parts.netloc:
        raise ValueError("an address holds no user and no password")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} holds characters that an address cannot")


@functools.cache
def built_in() -> Mapping[str, KnownModel]:
    """The models of known.toml, by name."""
    tables = read_toml(Path(__file__).with_name("known.toml"))
    return msgspec.convert(tables, dict[str, KnownModel])


def known_models(own: Mapping[str, KnownModel]) -> dict[str, KnownModel]:
    """All models by name: those built in, each perhaps replaced, and then those of a user.

    Args:
        own: what a configuration adds.
    """
    return {**built_in(), **own}


def find_known(name: str, own: Mapping[str, KnownModel]) -> KnownModel:
    """A model that can be fetched.

    Raises:
        ModelError: it is not known.
    """
    known = known_models(own)
    if name in known:
        return known[name]
    meant = guess(name, known, known) or f"known are: {', '.join(known)}."
    raise ModelError(f"no model {name!r} is known; {meant}")


def guess(name: str, names: Collection[str], known: Mapping[str, KnownModel]) -> str | None:
    """Ask whether other names were meant: those of that repository, else like ones.

    Args:
        name: what there is not.
        names: what there is.
        known: the models among them that are known.
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
    """The models that come from a repository of this name, as the hub writes it."""
    asked = name.casefold()
    return [each for each, model in known.items() if (model.repository or "").casefold() == asked]
