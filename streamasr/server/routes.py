"""Routes: the answer to each request, or the connection that it opens."""

import http
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from streamasr.protocols.dialect import Dialect, RequestHead, Route, bearer_tokens
from streamasr.server import websocket
from streamasr.server.access import Access
from streamasr.server.http import PLAIN, SAFE, Exchange, RequestError
from streamasr.server.http_transport import HttpTransport
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import Transport
from streamasr.server.web_assets import HEADERS, Page

_READ: Final = ("GET", "HEAD")

Converse: TypeAlias = Callable[[Transport, Dialect, RequestHead], Awaitable[None]]
"""Serves a client in a dialect until its connection is closed."""


@dataclass(slots=True, kw_only=True)
class Site:
    """Everything that is served over HTTP on one listening socket."""

    dialects: tuple[Dialect, ...]
    pages: Mapping[str, Page]
    """By their paths."""
    access: Callable[[], Access]
    metrics: Callable[[], tuple[bytes, str]]
    is_ready: Callable[[], bool]
    is_stopping: Callable[[], bool]
    converse: Converse
    timeouts: Timeouts
    loopback_port: int | None = None
    """Port of the socket, once it is known; None if other machines can connect."""

    async def handle(self, exchange: Exchange) -> None:
        """Respond to a request.

        Raises:
            RequestError: the request is refused, and nothing was sent.
            DisconnectedError: the client has closed the connection.
        """
        path = exchange.head.path
        if page := self.pages.get(path):
            _check_method(exchange, _READ)
            await _send_page(exchange, page)
        elif path == "/healthz":
            _check_method(exchange, _READ)
            await exchange.respond(http.HTTPStatus.OK, "ok\n")
        elif path == "/readyz":
            _check_method(exchange, _READ)
            if not self.is_ready():
                raise RequestError(http.HTTPStatus.SERVICE_UNAVAILABLE, "loading")
            await exchange.respond(http.HTTPStatus.OK, "ok\n")
        elif path == "/metrics":
            self._check_access(exchange, *bearer_tokens(exchange.head))
            _check_method(exchange, _READ)
            body, content_type = self.metrics()
            await exchange.respond(http.HTTPStatus.OK, body, content_type=content_type)
        elif routes := self._routes(path):
            await self._open(exchange, routes)
        else:
            raise RequestError(http.HTTPStatus.NOT_FOUND, "there is no such page")

    def _routes(self, path: str) -> list[tuple[Dialect, Route]]:
        """Return the routes of a path; those for every path only where no other has it."""
        routes = [(dialect, route) for dialect in self.dialects for route in dialect.routes]
        exact = [entry for entry in routes if entry[1].path == path]
        return exact or [entry for entry in routes if entry[1].path == "*"]

    async def _open(self, exchange: Exchange, routes: list[tuple[Dialect, Route]]) -> None:
        """Serve a client on the route that its request asks for."""
        dialect, route = _choose(exchange.head, routes)
        self._check_access(exchange, *dialect.tokens(exchange.head))
        transport: Transport
        if route.transport == "websocket":
            if self.is_stopping():
                message = "the server is stopping"
                raise RequestError(http.HTTPStatus.SERVICE_UNAVAILABLE, message)
            transport = await websocket.upgrade(
                exchange,
                select_subprotocol=dialect.select_subprotocol,
                max_frame_bytes=dialect.max_frame_bytes,
                timeouts=self.timeouts,
            )
        else:
            _check_method(exchange, route.methods)
            if route.max_body_bytes:
                exchange.expect_body(route.max_body_bytes)
            transport = HttpTransport(exchange)
        await self.converse(transport, dialect, exchange.head)

    def _check_access(self, exchange: Exchange, *tokens: str) -> None:
        """Check page and token of a request.

        Raises:
            RequestError: one of them is not allowed.
        """
        access = self.access()
        if not access.admits_page(exchange.head, self.loopback_port):
            message = "this web page may not connect; see allow_origin in the configuration"
            raise RequestError(http.HTTPStatus.FORBIDDEN, message)
        if not access.admits_token(tokens):
            headers = (*SAFE, ("WWW-Authenticate", "Bearer"))
            raise RequestError(http.HTTPStatus.UNAUTHORIZED, "the token is missing", headers)


def _choose(head: RequestHead, routes: list[tuple[Dialect, Route]]) -> tuple[Dialect, Route]:
    """Return the route that a request means: by its wish to upgrade, and by its method."""
    wants_websocket = any(value.strip().lower() == "websocket" for value in head.all("upgrade"))
    kind = "websocket" if wants_websocket else "http"
    fitting = [entry for entry in routes if entry[1].transport == kind] or routes
    by_method = [entry for entry in fitting if _method(head) in entry[1].methods]
    return (by_method or fitting)[0]


def _method(head: RequestHead) -> str:
    return "GET" if head.method == "HEAD" else head.method


def _check_method(exchange: Exchange, methods: tuple[str, ...]) -> None:
    if _method(exchange.head) not in methods:
        allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
        raise RequestError(
            http.HTTPStatus.METHOD_NOT_ALLOWED,
            f"this path does not take {exchange.head.method[:20]}",
            (*SAFE, ("Allow", ", ".join(allowed))),
        )


async def _send_page(exchange: Exchange, page: Page) -> None:
    """Send a file of the web client, unless the browser has it already."""
    headers = [*HEADERS.items(), ("ETag", page.etag)]
    if page.etag in exchange.head.all("if-none-match"):
        await exchange.respond(http.HTTPStatus.NOT_MODIFIED, headers=headers)
    else:
        await exchange.respond(
            http.HTTPStatus.OK, page.body, content_type=page.content_type or PLAIN, headers=headers
        )
