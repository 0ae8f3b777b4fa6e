"""HTTP connections, and the host that gets the token on them."""

from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from streamasr import __version__


def open_session(endpoint: str = "", token: str | None = None) -> requests.Session:
    """Open a session with the proxies and certificates of the environment.

    Args:
        endpoint: address of the host that gets the token.
        token: access token for gated repositories.
    """
    session = _Session()
    # An `auth` of our own also keeps requests from sending passwords in ~/.netrc.
    session.auth = _Token(endpoint, token)
    session.headers["User-Agent"] = f"streamasr/{__version__}"
    # Sizes, ranges and hashes are those of the plain file, not of a compressed one.
    session.headers["Accept-Encoding"] = "identity"
    return session


class _Token(AuthBase):
    """Sends a token to one host, and not to hosts that it redirects to."""

    def __init__(self, endpoint: str, token: str | None) -> None:
        self._endpoint = _origin(endpoint)
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token and _origin(request.url or "") == self._endpoint:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Session(requests.Session):
    """Leaves redirects to us: requests would read their whole bodies into memory."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: redirects are followed by `RemoteFile`."""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)
