"""Measures the page in headless Chromium on the CPU: its size, when it is ready over a slow line, and how fast it paints.

PYTHONPATH=tests/apps python tests/inference/page/measure.py [--megabits 10] [--seconds 8]
"""

import argparse
import socket
import threading
import time

from playwright.sync_api import sync_playwright
from tab import CHROMIUM, FLAGS, serving

from allaprima.inference.page import web

PART = 16384
SIZES_PX = (256, 384, 640)
SET = "([id, value]) => { $(id).value = value; $(id).dispatchEvent(new Event('change')); }".replace(
    "$(id)", "document.getElementById(id)"
)


class Line:
    """A slow line to a server: forwards bytes at a limited rate and counts those that come from the server."""

    def __init__(self, port: int, megabits: float) -> None:
        self.to, self.bytes_per_s, self.received = port, megabits * 1e6 / 8, 0
        self._free, self._lock = 0.0, threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._socket.accept()
            server = socket.create_connection(("127.0.0.1", self.to))
            for source, target, slow in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, slow), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        try:
            while data := source.recv(PART):
                if slow:
                    with self._lock:
                        self.received += len(data)
                        self._free = max(self._free, time.perf_counter()) + len(data) / self.bytes_per_s
                        until = self._free
                    time.sleep(max(0.0, until - time.perf_counter()))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the tab was closed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabits", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=8.0, help="of camera at each size")
    arguments = parser.parse_args()
    server = web.make_server(0)
    with serving(server), sync_playwright() as playwright:
        line = Line(server.server_port, arguments.megabits)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(permissions=["camera"])
        for visit in ("first", "second"):
            tab = context.new_page()
            tab.set_default_timeout(120_000)
            line.received, began = 0, time.perf_counter()
            tab.goto(f"http://localhost:{line.port}/?backend=wasm")
            tab.wait_for_selector("body[data-ready]")
            ready_s = time.perf_counter() - began
            tab.set_input_files("#file", web.PAGE.parents[1] / "inference/reference_photos/coffee.jpg")
            tab.wait_for_selector('#stage[data-state="painted"]')
            painted_s = time.perf_counter() - began
            print(f"{visit} visit: {line.received / 1e6:.2f} MB, ready after {ready_s:.1f} s, painted after {painted_s:.1f} s")
            if visit == "first":
                tab.close()
        tab.click("#camera")
        for size in SIZES_PX:
            tab.evaluate(SET, ["size", str(size)])
            tab.wait_for_timeout(1000 * arguments.seconds)
            print(f"camera, long side {size} px: {tab.inner_text('#speed')}")
        browser.close()


if __name__ == "__main__":
    main()
