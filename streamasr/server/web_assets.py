"""The web client as files to be served; what they do is in `clients/web`.

A wheel has them in `streamasr/web`, a checkout where they are written.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

_INSTALLED: Final = Path(__file__).with_name("web")
_CHECKED_OUT: Final = Path(__file__).parents[2] / "clients" / "web"

_CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""What is served at all."""

_POLICY: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "media-src blob:",  # a file that was dropped, to be listened to
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",  # text never becomes markup
)

HEADERS: Final = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), display-capture=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, and mostly answered with 304
}
"""With each file."""


@dataclass(frozen=True)
class Page:
    """One file."""

    body: bytes
    content_type: str

    @cached_property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


def load_pages() -> dict[str, Page]:
    """The files by their paths; `/` is the page itself."""
    directory = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT
    pages = {
        f"/{file.name}": Page(file.read_bytes(), _CONTENT_TYPES[file.suffix])
        for file in directory.glob("*")
        if file.suffix in _CONTENT_TYPES
    }
    return pages | {"/": pages["/index.html"]}
