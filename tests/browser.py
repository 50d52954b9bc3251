"""Chromium without a window, driven over its DevTools protocol; nothing but aiohttp, which Ray brings."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.needs import lacks
from tests.waiting import wait_until

_SIZE = (1400, 900)
# No sandbox, since tests may run as root; WebGL in software, which the parallel coordinates are drawn with.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--remote-debugging-port=0", f"--window-size={_SIZE[0]},{_SIZE[1]}",
)  # fmt: skip

_KEY_CODES = {"Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowUp": 38, "ArrowDown": 40, "/": 191}


class Browser:
    """One page of a browser. Every wait is for a condition, with the patience of all tests.

    Args:
        socket: address of the page's DevTools.
        process: the browser, for a wait that ends when it is gone.
        pictures: folder for screenshots.
    """

    def __init__(self, socket: str, process: "subprocess.Popen[bytes]", pictures: Path) -> None:
        self._process, self._pictures = process, pictures
        self._loop = asyncio.Runner()
        self._numbers = itertools.count(1)
        self._loop.run(self._connect(socket))
        width, height = _SIZE
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def _connect(self, socket: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(socket, max_msg_size=0)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._loop.run(self._answer(method, params))

    async def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; None where it raises, as on a page that is not there yet."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return None if "exceptionDetails" in answer else answer["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address."""
        # From page to page of one server only what stands behind the "#" changes, and the old page stays for a while.
        self._call("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")
        self._call("Page.navigate", url=url)

    def wait_for(self, condition: str) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        try:
            wait_until(lambda: self.evaluate(condition), condition, self._process)
        except AssertionError as error:
            text = self.evaluate("document.body.innerText")
            raise AssertionError(f"{error}; the page says: {str(text)[:1500]}") from None
        return self.evaluate(condition)

    def press(self, *keys: str) -> None:
        """Press keys one after the other, as a hand does: a character, or a name such as ``Enter``."""
        for key in keys:
            is_character = len(key) == 1
            text = {"Enter": "\r"}.get(key, key if is_character else "")
            code = _KEY_CODES.get(key, ord(key.upper()) if is_character and key.isalnum() else 0)
            about = {"key": key, "windowsVirtualKeyCode": code}
            self._call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **about)
            self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def type(self, text: str) -> None:
        """Press the keys of a text."""
        self.press(*text)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, **media: str) -> None:
        """Let the person prefer something: ``color_scheme="dark"``, ``reduced_motion="reduce"``."""
        features = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in media.items()]
        self._call("Emulation.setEmulatedMedia", features=features)

    def forget(self) -> None:
        """Lose all cookies."""
        self._call("Network.clearBrowserCookies")

    def offline(self, is_offline: bool) -> None:
        """Cut the browser off from every server, or let it reach them again."""
        self._call("Network.enable")
        self._call(
            "Network.emulateNetworkConditions",
            offline=is_offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def accessible(self) -> list[tuple[str, str]]:
        """Return role and name of everything that a screen reader is told of."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (str(node["role"]["value"]), str(node.get("name", {}).get("value", "")))
            for node in nodes
            if not node["ignored"]
        ]

    def picture(self, name: str) -> None:
        """Keep what the window shows, also in ``AL_RAY_SCREENSHOTS`` where that names a folder."""
        path = self._pictures / f"{name}.png"
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
        if folder := os.environ.get("AL_RAY_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)

    def close(self) -> None:
        """Leave the page."""
        self._loop.run(self._session.close())
        self._loop.close()


def chromium() -> str:
    """Return the browser's program, or skip the test that asks."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    return found or lacks("browser", "neither chromium nor google-chrome is on the PATH")


@contextmanager
def browsing(program: str, folder: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile in a folder; yield its page, and end it."""
    profile = folder / "profile"
    process = subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        told = profile / "DevToolsActivePort"
        wait_until(lambda: told.exists() and len(told.read_text().split()) == 2, "the start of the browser", process)
        browser = Browser(_first_page(int(told.read_text().split()[0])), process, folder)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _first_page(port: int) -> str:
    import urllib.request

    found: list[str] = []

    def is_there() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            found.extend(page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page")
        return bool(found)

    wait_until(is_there, "the first page of the browser")
    return found[0]
