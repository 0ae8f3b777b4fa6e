"""Headless Chromium, controlled through its DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Self

from msgspec import json
from websockets.asyncio.client import ClientConnection, connect

Json = dict[str, Any]

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")

_OPTIONS: Final = (
    "--headless=new",
    "--no-sandbox",  # required for root; only pages of this project are loaded
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    "--use-fake-ui-for-media-stream",  # grants access to the microphone
    "--use-fake-device-for-media-stream",
)

_MIDDLE: Final = """async (selector) => {
    const element = () => document.querySelector(selector);
    const frame = () => new Promise(requestAnimationFrame);
    const middle = () => {
        const box = element().getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    };
    element().scrollIntoView({ block: "center", behavior: "instant" });
    for (let last = ""; last !== `${middle()}`; await frame(), await frame()) last = `${middle()}`;
    return middle();
}"""
"""Scroll an element into view and wait until it does not move for two frames."""


@contextlib.contextmanager
def running_chromium(directory: Path, *options: str) -> Iterator[str]:
    """Run a browser; yield the address of its DevTools.

    Args:
        directory: directory for its profile.
        options: further command-line options.
    """
    assert CHROMIUM
    command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={directory}", *options, "about:blank"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr
            lines = itertools.takewhile(bool, iter(process.stderr.readline, ""))
            yield next(line.split()[-1] for line in lines if "DevTools listening" in line)
        finally:
            process.kill()


def microphone_from(wav: Path) -> str:
    """Return the option for a microphone that plays a file once."""
    return f"--use-file-for-fake-audio-capture={wav}%noloop"


class Tab:
    """Tab in a profile of its own."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._session: str | None = None
        self._context = ""
        self.errors: list[str] = []
        """Uncaught exceptions, and errors that the browser logged for the page."""

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, browser: str, url: str = "") -> AsyncIterator[Self]:
        """Open a tab that shows a page."""
        async with connect(browser, max_size=None, ping_interval=None) as connection:
            tab = cls(connection)
            reading = asyncio.create_task(tab._read())
            try:
                await tab._begin()
                if url:
                    await tab.go(url)
                yield tab
                await tab.do("Target.disposeBrowserContext", browserContextId=tab._context)
            finally:
                reading.cancel()

    async def _begin(self) -> None:
        self._context = (await self.do("Target.createBrowserContext"))["browserContextId"]
        context = {"browserContextId": self._context}
        target = await self.do("Target.createTarget", url="about:blank", **context)
        attached = await self.do("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.do(f"{domain}.enable")

    async def _read(self) -> None:
        async for frame in self._connection:
            message = json.decode(frame, type=Json)
            if (number := message.get("id")) is not None:
                self._answers.pop(number).set_result(message)
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, params: Json) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", "?"))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))

    async def do(self, method: str, **parameters: Any) -> Json:
        """Execute a command of the DevTools protocol."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        command: Json = {"id": number, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            command["sessionId"] = self._session
        await self._connection.send(json.encode(command).decode())
        message = await answer
        assert "error" not in message, f"{method}: {message['error']}"
        return dict(message["result"])

    async def go(self, url: str) -> None:
        """Load a page and wait until its scripts have run."""
        await self.do("Page.navigate", url=url)
        await self.until(f"location.href === {url!r} && document.readyState === 'complete'")

    async def get(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        result = await self.do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]["exception"]
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true in the page; the deadline is the test's."""
        while not await self.get(script):
            await asyncio.sleep(0.02)

    async def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(await self.get(f"document.querySelector({selector!r}).textContent"))

    async def texts(self, selector: str) -> list[str]:
        """Return the texts of all matching elements."""
        script = f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)"
        return [str(text) for text in await self.get(script)]

    async def click(self, selector: str) -> None:
        """Click the middle of an element."""
        x, y = await self.point(selector)
        await self._mouse("mousePressed", x, y, button="left", clickCount=1)
        await self._mouse("mouseReleased", x, y, button="left", clickCount=1)

    async def point(self, selector: str) -> tuple[float, float]:
        """Move the mouse to an element, which may move meanwhile; return the position."""
        while True:
            x, y = await self.middle(selector)
            await self._mouse("mouseMoved", x, y)
            if await self.get(f"document.querySelector({selector!r}).matches(':hover')"):
                return x, y

    async def middle(self, selector: str) -> tuple[float, float]:
        """Return the middle of an element in the window, once it does not move any more."""
        x, y = await self.get(f"({_MIDDLE})({selector!r})")
        return x, y

    async def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        await self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    async def press(self, key: str, **more: Any) -> None:
        """Press a key, given by name."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37}[key]
        text = {"Enter": {"text": "\r"}}.get(key, {})
        for kind in ("keyDown", "keyUp"):
            event = {"key": key, "code": key, "windowsVirtualKeyCode": code} | more
            await self.do("Input.dispatchKeyEvent", type=kind, **event, **text)

    async def type(self, selector: str, text: str) -> None:
        """Type a text into a field."""
        await self.get(f"document.querySelector({selector!r}).focus()")
        await self.do("Input.insertText", text=text)

    async def choose_files(self, selector: str, *files: Path) -> None:
        """Choose files in a file field."""
        document = await self.do("DOM.getDocument")
        node = await self.do(
            "DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector
        )
        await self.do("DOM.setFileInputFiles", files=list(map(str, files)), nodeId=node["nodeId"])

    async def drop_files(self, *files: Path) -> None:
        """Drag files onto the page and drop them."""
        data = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.do("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)

    async def save_downloads_in(self, directory: Path) -> None:
        """Save downloads to a directory without asking."""
        await self.do(
            "Browser.setDownloadBehavior",
            behavior="allow",
            browserContextId=self._context,
            downloadPath=str(directory),
        )

    async def look(self, *, width: int = 1000, height: int = 720, scheme: str = "light") -> None:
        """Set the size of the window and the preferred colour scheme."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.do("Emulation.setEmulatedMedia", features=[feature])

    async def photograph(self, path: Path) -> None:
        """Save a screenshot."""
        picture = await self.do("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))
