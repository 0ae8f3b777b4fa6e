"""Access of clients and web pages, decided from their requests; pure."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from streamasr.protocols.dialect import RequestHead

_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Access:
    """The token and the web pages that are allowed."""

    token: str | None = field(default=None, repr=False)
    """None allows every client that can connect."""
    origins: frozenset[str] = frozenset()
    """Origins of web pages that may connect, besides the server's own."""

    def admits_page(self, request: RequestHead, loopback_port: int | None) -> bool:
        """Tell whether the web page that sends a request may; native clients name no page.

        Args:
            request: of the page.
            loopback_port: port of the server; None if other machines can connect, for which the
                server has any name that they know.
        """
        origins = request.all("origin")
        if not origins:
            return True
        if len(origins) > 1:
            return False
        [origin] = origins
        return origin in self.origins or _is_own(origin, request, loopback_port)

    def admits_token(self, shown: Iterable[str]) -> bool:
        """Tell whether the right token is among those that a request shows."""
        if self.token is None:
            return True
        return any(_is_same(text, self.token) for text in shown)


def _is_own(origin: str, request: RequestHead, loopback_port: int | None) -> bool:
    scheme, _, place = origin.partition("://")
    if scheme not in ("http", "https") or not place:
        return False
    if loopback_port is None:
        return place in request.all("host")
    # Never the Host header: a page may point its own name to our address.
    return place in {f"{name}:{loopback_port}" for name in _LOOPBACK_NAMES}


def _is_same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(errors="surrogatepass"), token.encode())
