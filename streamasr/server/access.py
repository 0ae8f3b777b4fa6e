"""Who may connect, judged by what a request says; pure."""

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from websockets.http11 import Request

_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Access:
    """What opens the door."""

    token: str | None = field(default=None, repr=False)
    """None lets everybody in who can connect."""
    origins: frozenset[str] = frozenset()
    """Of web pages that may connect, besides our own."""

    def admits_page(self, request: Request, loopback_port: int | None) -> bool:
        """Whether the web page that asks may connect; native clients say of no page.

        Args:
            request: of a connection that is to be opened.
            loopback_port: where we listen; None if other machines can connect, to whom we have
                any name that they know.
        """
        origins = request.headers.get_all("Origin")
        if not origins:
            return True
        if len(origins) > 1:
            return False
        [origin] = origins
        return origin in self.origins or _is_own(origin, request, loopback_port)

    def admits_token(self, request: Request, in_query: list[str]) -> bool:
        """Whether the right token is among those that are shown."""
        if self.token is None:
            return True
        shown = [*in_query, *_shown_tokens(request)]
        return any(_is_same(text, self.token) for text in shown)


def _is_own(origin: str, request: Request, loopback_port: int | None) -> bool:
    scheme, _, place = origin.partition("://")
    if scheme not in ("http", "https") or not place:
        return False
    if loopback_port is None:
        return place in request.headers.get_all("Host")
    # Never what the Host header says: a page may give its own name our address.
    return place in {f"{name}:{loopback_port}" for name in _LOOPBACK_NAMES}


def _is_same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(errors="surrogatepass"), token.encode())


def _shown_tokens(request: Request) -> Iterator[str]:
    for value in request.headers.get_all("Authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":
            yield credentials.strip()
    for value in request.headers.get_all("Sec-WebSocket-Protocol"):
        names = [name.strip() for name in value.split(",")]
        if "bearer" in names[:-1]:
            yield names[names.index("bearer") + 1]
