"""The page that paints in the browser (inference/page): served on this machine, or written for any static host."""

import base64
import functools
import gzip
import hashlib
import html
import http.server
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from allaprima.inference.atomic import write_atomically
from allaprima.inference.style.onnx_file import read_style
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import FOLDER, PAINTING, shipped_styles
from allaprima.models.errors import WebError

PAGE = Path(__file__).parent
RUNTIME = PAGE / "node_modules" / "onnxruntime-web" / "dist"
# Modules, which become one script each: fewer files to wait for, and browsers load no modules from the disk.
PAGE_SOURCES = (
    "levels.js",
    "state.js",
    "engine.js",
    "painting.js",
    "saving.js",
    "filming.js",
    "address.js",
    "styles.js",
    "sources.js",
    "offline.js",
    "page.js",
)
WORKER_SOURCES = ("levels.js", "tiles.js", "onnx.js", "painter.js")
# onnxruntime-web in three builds, of which a browser fetches one: without WebGPU, with it, and with it for browsers whose
# WebAssembly cannot wait for the GPU by itself.
RUNTIMES = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "jspi": ("ort.jspi.bundle.min.mjs", "ort-wasm-simd-threaded.jspi.wasm"),
    "asyncify": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
FILMS = PAGE / "node_modules" / "mediabunny" / "dist" / "bundles" / "mediabunny.min.mjs"
PRECISIONS = ("fp32", "fp16", "int8")
SINGLE_FILE_PRECISION = "int8"  # the smallest, and the fastest in WebAssembly

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
FIRST_STYLE = "starry_night"  # what the page begins with, and what example.jpg is painted with
SAMPLES = ("chelsea", "astronaut", "coffee")  # photos for those who have none at hand; the first is example.jpg's
DESCRIPTION = "Your camera, photos and videos, painted while you watch. Nothing leaves your device."
TEST_PX = 48  # side of the picture that each style must paint correctly before it is used, in painter.js
ASSETS = 'id="assets">{}'  # in index.html, where `_assets` goes
FOR_EVER = "public, max-age=31536000, immutable"

Content = Callable[[], bytes]


@functools.cache
def headers() -> dict[str, str]:
    """The headers of every response."""
    return {
        # Without the first two, browsers give a page no memory that threads can share.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # The page's own policy again: a worker, which has the pictures, takes its policy from its own response.
        "Content-Security-Policy": re.findall(r'Policy" content="([^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8"))[
            0
        ],
    }


class Add(Protocol):
    """Puts a file into the page.

    Args:
        name: its name.
        content: its bytes.
        version: bytes that identify the content, if the content itself takes long to make.
    Returns:
        where the page finds it.
    """

    def __call__(self, name: str, content: Content, version: bytes = b"") -> str: ...


def _assets(add: Add, picture: Add, folder: Path, runtimes: Sequence[str], precisions: Sequence[str]) -> dict[str, Any]:
    """Everything that the page loads by itself, and from where: `assets` in index.html, `now.assets` in JavaScript.

    Args:
        picture: like `add`, for what an <img> shows.
        precisions: those to include of each style, as far as they exist.
    """
    styles = []
    for style in shipped_styles(folder):
        if style.tier != "realtime":
            continue
        paths = {
            each: style.path if each == "fp32" else style.path.with_name(f"{style.tier}.{each}.onnx")
            for each in precisions
            if each == "fp32" or each in style.flavors
        } or {"fp32": style.path}
        where = f"styles/{style.name}"
        _, contract = read_style(style.path)
        listed = {
            "name": style.name,
            "title": style.card.get("title", style.name),
            "picture": picture(f"{where}/painted.jpg", functools.partial(base64.b64decode, contract.thumbnail)),
            "check": add(f"{where}/check", functools.partial(painted_test_picture, style.path), style.path.read_bytes()),
            "files": {precision: add(f"{where}/{path.name}", path.read_bytes) for precision, path in paths.items()},
        }
        if (style.path.parent / PAINTING).is_file():
            listed["painting"] = picture(f"{where}/{PAINTING}", (style.path.parent / PAINTING).read_bytes)
        styles.append(listed)
    return {
        "worker": add("worker.js", lambda: joined(WORKER_SOURCES)),
        "runtimes": {name: _runtime(name, add) for name in runtimes},
        "films": add("films.mjs", FILMS.read_bytes),
        "styles": sorted(styles, key=lambda listed: listed["name"] != FIRST_STYLE),
        "samples": [
            {"name": name, "picture": picture(f"samples/{name}.jpg", (PAGE / "samples" / f"{name}.jpg").read_bytes)}
            for name in SAMPLES
        ],
    }


def _runtime(name: str, add: Add) -> dict[str, str]:
    module, wasm = (RUNTIME / each for each in RUNTIMES[name])
    # Not all hosts compress WebAssembly, so the page unpacks it itself.
    packed = functools.cache(lambda: gzip.compress(wasm.read_bytes(), mtime=0))
    return {
        "module": add(f"ort/{name}.mjs", module.read_bytes),
        "wasm": add(f"ort/{name}.wasm.gz", packed, wasm.read_bytes()),
    }


def painted_test_picture(path: Path) -> bytes:
    """A style's painting of the test picture, which painter.js also makes: RGB levels, row by row."""
    y, x = np.mgrid[:TEST_PX, :TEST_PX]
    disc = np.where((x - 24) ** 2 + (y - 24) ** 2 < 200, 255, 60)
    return StyleSession(path).stylize(np.stack([5 * x, 5 * y, disc], axis=-1).astype(np.uint8)).tobytes()


def site(folder: Path = FOLDER, *, offline: bool = False, url: str | None = None) -> dict[str, Content]:
    """Every file of the page: its path in the site -> what gives its bytes. Those in files/ are named after their contents,
    so that a browser never has to fetch them twice.

    Args:
        offline: include what makes the page installable and lets it work without a network.
        url: where it will be, for the link previews of messengers.
    Raises:
        WebError: onnxruntime-web is not installed.
    """
    check_packages()
    files: dict[str, Content] = {}

    def add(name: str, content: Content, version: bytes = b"") -> str:
        stem, dot, kinds = name.partition(".")
        path = f"files/{stem}.{hashlib.sha256(version or content()).hexdigest()[:10]}{dot}{kinds}"
        files[path] = content
        return path

    assets = _assets(add, add, folder, list(RUNTIMES), PRECISIONS)
    example = add("example.jpg", (PAGE / "example.jpg").read_bytes)
    head = ""
    if offline:
        icon = add("icon.png", (PAGE / "icon.png").read_bytes)
        head = f'<link rel="manifest" href="manifest.webmanifest">\n<link rel="apple-touch-icon" href="{icon}">\n'
        files["manifest.webmanifest"] = json.dumps(_manifest(icon), indent=1).encode
    if url:
        address = url.rstrip("/") + "/"
        head += f'<meta property="og:url" content="{html.escape(address)}">\n'
        head += f'<meta property="og:image" content="{html.escape(address + example)}">\n'
        head += '<meta name="twitter:card" content="summary_large_image">\n'
    style = add("style.css", (PAGE / "style.css").read_bytes)
    script = add("page.js", lambda: joined(PAGE_SOURCES))
    page = _changed(
        (PAGE / "index.html").read_text(encoding="utf-8"),
        {
            "</head>": f"{head}</head>",
            'href="style.css"': f'href="{style}"',
            'src="page.js"': f'src="{script}"',
            'src="example.jpg"': f'src="{example}"',
            ASSETS: f"{ASSETS[:-2]}{_in_html(assets)}",
        },
    )
    files["index.html"] = page.encode
    if offline:
        later = (assets["films"], *(path for each in assets["runtimes"].values() for path in each.values()))
        later += tuple(path for style in assets["styles"] for path in (style["check"], *style["files"].values()))
        shell = ["./", "manifest.webmanifest", *(path for path in files if path.startswith("files/") and path not in later)]
        worker = _changed(
            (PAGE / "sw.js").read_text(encoding="utf-8"),
            {
                "SHELL = []": f"SHELL = {json.dumps(shell)}",
                "FILES = []": f"FILES = {json.dumps([path for path in files if path.startswith('files/')])}",
                "HEADERS = {}": f"HEADERS = {json.dumps(headers())}",
            },
        )
        files["sw.js"] = worker.encode
    return files


def _space_readme(url: str | None) -> bytes:
    """What a model hub's static space reads (huggingface.co/docs/hub/spaces-config-reference); other hosts show it."""
    about = {
        "title": "Alla Prima",
        "short_description": "Your camera, photos and videos, painted live",
        "sdk": "static",
        "app_file": "index.html",
        "license": "mit",
        "custom_headers": {name.lower(): value for name, value in headers().items() if name.startswith("Cross-Origin")},
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in about.items()]  # JSON is YAML, too
    where = f" It is meant for {url}." if url else ""
    return "\n".join(["---", *lines, "---", "", "# Alla Prima", "", f"{DESCRIPTION}{where}", ""]).encode()


def _manifest(icon: str) -> dict[str, Any]:
    """The manifest of a web app, https://www.w3.org/TR/appmanifest."""
    return {
        "name": "Alla Prima",
        "short_name": "Alla Prima",
        "description": DESCRIPTION,
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#f8f6f2",
        "theme_color": "#f8f6f2",
        "icons": [
            {"src": icon, "sizes": "512x512", "type": "image/png", "purpose": purpose} for purpose in ("any", "maskable")
        ],
    }


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def joined(names: Sequence[str]) -> bytes:
    """JavaScript modules as one script, in which each name can be defined only once."""
    texts = ((PAGE / name).read_text(encoding="utf-8") for name in names)
    return "".join(re.sub(r"^import .*\n|^export ", "", text, flags=re.MULTILINE) for text in texts).encode()


def check_packages() -> None:
    """Raises:
    WebError: onnxruntime-web or mediabunny is not installed; the message has the command that installs them.
    """
    needed = [*(RUNTIME / name for names in RUNTIMES.values() for name in names), FILMS]
    missing = [path.name for path in needed if not path.is_file()]
    if missing:
        line = f"npm ci --prefix {shlex.quote(str(PAGE))}"
        node = "" if shutil.which("npm") else " (npm is Node's; pip install 'allaprima[node]' brings it)"
        raise WebError(
            f"the page needs onnxruntime-web and mediabunny, {missing[0]} is missing; install them with: {line}{node}"
        )


def make_server(port: int, folder: Path = FOLDER) -> http.server.ThreadingHTTPServer:
    """A server for the page, for this machine only; `serve_forever` runs it.

    Args:
        port: 0 takes any free one.
    Raises:
        WebError: the port is taken, or onnxruntime-web is not installed.
    """
    files = site(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # Under another host name, a stranger's site would be showing our pages.
            if self.headers.get("Host", "").partition(":")[0] not in ("localhost", "127.0.0.1"):
                return self.send_error(403)
            path = self.path.partition("?")[0].removeprefix("/") or "index.html"
            if path not in files:
                return self._answer(404, {"Content-Type": "text/plain"}, b"not here\n")
            data = files[path]()
            tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            said = {
                "Content-Type": TYPES.get(Path(path).suffix, "application/octet-stream"),
                "Cache-Control": FOR_EVER if path.startswith("files/") else "no-cache",
                "ETag": tag,
            }
            if tag in self.headers.get("If-None-Match", ""):
                return self._answer(304, said)
            self._answer(200, said, data)

        do_HEAD = do_GET

        def _answer(self, status: int, said: Mapping[str, str], data: bytes = b"") -> None:
            self.send_response(status)
            if status != 304:
                self.send_header("Content-Length", str(len(data)))
            for name, value in {**headers(), **said}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            """Print nothing: the terminal is for the address."""

    class Server(http.server.ThreadingHTTPServer):
        allow_reuse_address = os.name == "posix"  # on Windows it would let two programs share one port

        def handle_error(self, *arguments: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # a tab that was closed meanwhile
                super().handle_error(*arguments)

    try:
        return Server(("127.0.0.1", port), Handler)
    except OSError as error:
        raise WebError(f"port {port} cannot be used ({error.strerror or error}); give another: --port 0") from error


def export_folder(target: Path, folder: Path = FOLDER, url: str | None = None) -> int:
    """Write the page for any static host.

    Args:
        target: a new or empty folder.
        url: where it will be, for the link previews of messengers.
    Returns:
        its size in bytes.
    Raises:
        WebError: the folder is not empty, cannot be written, or onnxruntime-web is not installed.
    """
    files = site(folder, offline=True, url=url)
    # Some hosts (Netlify, Cloudflare Pages) read this; on others, the service worker adds the headers that threads need.
    lines = "".join(f"  {name}: {value}\n" for name, value in headers().items())
    files["_headers"] = f"/*\n{lines}/files/*\n  Cache-Control: {FOR_EVER}\n".encode
    files["README.md"] = functools.partial(_space_readme, url)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "holds files" if target.is_dir() else "is a file"
        raise WebError(f"{target} {what}; give a new or empty folder")
    size, existed = 0, target.exists()
    try:
        for path, content in files.items():
            data = content()
            size += len(data)
            try:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target / path, data)
            except OSError as error:
                raise WebError(f"{target / path} cannot be written: {error.strerror or error}") from error
    except BaseException:  # half a page is useless, and would block the next attempt
        shutil.rmtree(target, ignore_errors=True)
        if existed:
            target.mkdir(exist_ok=True)
        raise
    return size


def write_single_file(output: Path, overwrite: bool, folder: Path = FOLDER) -> int:
    """Write the page as a single .html that works from the disk, with ONNX Runtime (WebAssembly) and the styles inside.

    Returns:
        its size in bytes.
    Raises:
        WebError: the name does not end in .html, it exists, cannot be written, or onnxruntime-web is not installed.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise WebError(f"{output} is not named .html; give --single-file OUT.html")
    if output.exists() and not overwrite:
        raise WebError(f"{output} exists; give --overwrite to replace it, or another name")
    check_packages()
    inside: dict[str, str] = {}

    def add(name: str, content: Content, version: bytes = b"") -> str:
        data = content()
        inside[name] = base64.b64encode(data if name.endswith(".gz") else gzip.compress(data, mtime=0)).decode()
        return name

    def picture(name: str, content: Content, version: bytes = b"") -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(content()).decode()}"

    assets = _assets(add, picture, folder, ["wasm"], [SINGLE_FILE_PRECISION])
    css = (PAGE / "style.css").read_text(encoding="utf-8")
    page = _changed(
        (PAGE / "index.html").read_text(encoding="utf-8"),
        {
            '<link rel="stylesheet" href="style.css">': f"<style>\n{css}</style>",
            'src="example.jpg"': f'src="{picture("", (PAGE / "example.jpg").read_bytes)}"',
            ASSETS: f"{ASSETS[:-2]}{_in_html(assets | {'inside': inside})}",
            '<script defer src="page.js"></script>': f"<script>\n{joined(PAGE_SOURCES).decode()}</script>",
            # Nothing needs to be fetched any more, so nothing may be; what is inside may run.
            "script-src 'self' blob:": "script-src 'unsafe-inline' blob: data:",
            "style-src 'self'": "style-src 'unsafe-inline'",
            "connect-src 'self' blob:": "connect-src blob:",
            "worker-src 'self' blob:": "worker-src blob:",
        },
    )
    data = page.encode()
    try:
        write_atomically(output, data)
    except OSError as error:
        raise WebError(f"{output} cannot be written: {error.strerror or error}") from error
    return len(data)


def _in_html(value: object) -> str:
    """JSON that cannot close the script element around it."""
    return json.dumps(value).replace("</", "<\\/")
