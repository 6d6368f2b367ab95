"""The page in a tab of headless Chromium, with a fake camera and without a network."""

import base64
import http.server
import re
import threading

import numpy as np
from toolbox import find_chromium

from allaprima.inference.style.styles import shipped_styles

CHROMIUM = find_chromium()
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-device-for-media-stream"]
PIXELS = """() => {
  const painting = document.getElementById('painting'), { width, height } = painting;
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(painting, 0, 0);
  const { data } = copy.getImageData(0, 0, width, height);
  return [width, height, btoa(Array.from(data, (level) => String.fromCharCode(level)).join(''))];
}"""
SEND = "(to) => fetch(to, { method: 'POST', body: 'pixels', mode: 'no-cors' }).then(() => 'sent', () => 'refused')"
PAINTED = """(before) => new Promise((done, fail) => {
  const stage = document.getElementById('stage'), end = performance.now() + 60000;
  const look = () => {
    if (stage.dataset.state === 'painted' && (stage.dataset.painted ?? null) !== before) done();
    else if (performance.now() > end) fail(new Error('nothing was painted'));
    else setTimeout(look, 20);
  };
  look();
})"""
SET = """([id, value]) => {
  document.getElementById(id).value = value;
  document.getElementById(id).dispatchEvent(new Event('input'));
}"""

EXAMPLE = (
    "() => { const image = document.querySelector('#example img'); return [image.naturalWidth, image.checkVisibility()]; }"
)


class serving:
    """Runs a server in a thread."""

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.server = server

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://localhost:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


REALTIME = [style for style in shipped_styles() if style.tier == "realtime"]
FIRST = next(style for style in REALTIME if style.name == "starry_night")  # what the page begins with
LISTED = [FIRST, *(style for style in REALTIME if style is not FIRST)]


class Page:
    """A tab with the page. On exit, fails if the page wrote to the console or contacted any other server."""

    def __init__(self, browser, base, permissions=("camera",), path="?backend=wasm", **options) -> None:
        self.context = browser.new_context(permissions=list(permissions), **options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.trouble, self.base = [], base
        # Chromium itself reports that there is no GPU.
        self.tab.on("console", lambda message: message.text == "No available adapters." or self.trouble.append(message.text))
        self.tab.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.tab.on("request", lambda request: self._look(request.url))
        self.tab.goto(base + path)
        self.ready()

    def ready(self) -> None:
        self.tab.wait_for_selector("body[data-ready]")
        self.tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")

    def _look(self, url: str) -> None:
        if not url.startswith((self.base, "blob:", "data:")):
            self.trouble.append(f"asked {url}")

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, kind, *_: object) -> None:
        self.context.close()
        assert kind or not self.trouble, self.trouble

    def painted(self, act) -> np.ndarray:
        """Performs an action and returns the next painted picture."""
        before = self.tab.get_attribute("#stage", "data-painted")
        act()
        self.tab.evaluate(PAINTED, before)
        return self.pixels()

    def pixels(self) -> np.ndarray:
        width, height, data = self.tab.evaluate(PIXELS)
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3].astype(int)

    def open(self, path) -> np.ndarray:
        return self.painted(lambda: self.tab.set_input_files("#file", path))

    def set(self, name: str, value: int) -> np.ndarray:
        return self.painted(lambda: self.tab.evaluate(SET, [name, value]))

    def choose(self, title: str) -> None:
        titles = [style.card["title"] for style in shipped_styles() if style.card["title"].startswith(title)]
        whole = min(titles, key=len)  # there is a Composition VII and a VIII
        self.tab.locator("#choices label", has_text=re.compile(rf"{re.escape(whole)}\s*$")).click()
        self.tab.locator("#card", has_text=f"“{whole}”").wait_for()

    def message(self, text: str) -> None:
        self.tab.locator("#message", has_text=text).wait_for()


def exact(page: Page) -> None:
    """Chooses fp32 and the picture's own size."""
    page.tab.select_option("#precision", "fp32")
    page.tab.locator("#network", has_text="fp32").wait_for()
    page.tab.select_option("#size", "4096")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain static host; needs a directory."""

    def log_message(self, *_: object) -> None:
        pass
