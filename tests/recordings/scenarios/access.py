"""Access, and plain HTTP."""

from typing import Final

from tests.recordings.audio import talk
from tests.recordings.player import EVENTS, STREAM, Player
from tests.recordings.scenarios.registry import scenario

TOKEN: Final = "correct-horse-battery"
"""Token of the scenario in which clients need one."""


@scenario(token=TOKEN)
async def tokens(play: Player) -> None:
    """Show the token in every way, and in none."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    async with play.connect("header", headers=bearer) as client:
        await client.start()
        path = f"{EVENTS}?session={client.session}"
        async with play.connect("query", f"{path}&token={TOKEN}") as listener:
            await listener.wait("ready")
        await play.refused("events without", path)
        await play.refused("events with a wrong one", f"{path}&token=wrong")
        await client.stop()
    offered = ["streamasr.v1", "bearer", TOKEN]
    async with play.connect("subprotocols", subprotocols=offered) as client:
        await client.start()
        await client.stop()
    await play.refused("none")
    await play.refused("wrong", headers={"Authorization": "Bearer wrong"})
    await play.refused("other scheme", headers={"Authorization": f"Basic {TOKEN}"})
    await play.refused("stream with query", f"{STREAM}?token={TOKEN}")
    await play.refused("wrong subprotocol", subprotocols=["streamasr.v1", "bearer", "wrong"])
    await play.request("metrics without", "GET", "/metrics")
    await play.request("metrics with", "GET", "/metrics", f"Authorization: Bearer {TOKEN}")
    await play.request("health", "GET", "/healthz")
    await play.request("page", "GET", "/")


@scenario(settings={"server": {"allow_origin": ["https://notes.example"]}})
async def origins(play: Player) -> None:
    """Come from web pages: our own, an allowed one, and others."""
    port = play.server.url.rpartition(":")[2]
    good = {
        "own": f"http://127.0.0.1:{port}",
        "own by name": f"http://localhost:{port}",
        "allowed": "https://notes.example",
    }
    for name, origin in good.items():
        async with play.connect(name, headers={"Origin": origin}) as client:
            await client.start()
            await client.stop()
    bad = {
        "other": "https://evil.example",
        "other port": "http://127.0.0.1:1",
        "other port of an allowed one": "https://notes.example:8443",
        "null": "null",
    }
    for name, origin in bad.items():
        await play.refused(name, headers={"Origin": origin})
        await play.refused(f"{name}, events", f"{EVENTS}?session=x", headers={"Origin": origin})
        await play.request(f"{name}, metrics", "GET", "/metrics", f"Origin: {origin}")


@scenario()
async def pages(play: Player) -> None:
    """Ask for every page, and for pages that are not there."""
    for path in ("/healthz", "/readyz", "/metrics", "/", "/index.html", "/nothing", "/v1/", "/v2"):
        for method in ("GET", "HEAD"):
            body = await play.request(f"{method} {path}", method, path)
            if path in ("/healthz", "/readyz"):
                play.note(f"{method} {path}", {"body": body})
    metrics = await play.request("GET /metrics?x", "GET", "/metrics?x")
    types = [line for line in metrics.splitlines() if line.startswith("# TYPE")]
    # `_created` depends on a library's version; `_info` was added later.
    kept = sorted(t for t in types if "_created" not in t and "_info" not in t)
    play.note("metrics", {"types": kept})
    await play.request("stream without an upgrade", "GET", STREAM)
    await play.refused("unknown path", "/v1/streams")
    await play.refused("path with a slash", STREAM + "/")
    await play.refused("health", "/healthz")
    async with play.connect("stream with a query", STREAM + "?x=1") as client:
        await client.start()
    async with play.connect("our subprotocol", subprotocols=["streamasr.v1"]) as client:
        await client.start()
    async with play.connect("several", subprotocols=["other", "streamasr.v1"]) as client:
        await client.start()


@scenario(is_loaded=False)
async def while_loading(play: Player) -> None:
    """Connect before the engine is ready."""
    await play.request("health while loading", "GET", "/healthz")
    await play.request("readiness while loading", "GET", "/readyz")
    async with play.connect("client") as client:
        await client.say("start")
        await play.server.finish_loading()
        await client.wait("ready")
        await client.speak(talk(1.0))
        await client.stop()
    await play.request("readiness afterwards", "GET", "/readyz")
