"""The page that paints in the browser (inference/page): served on this machine, or written for any static host."""

import base64
import functools
import gzip
import http.server
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from inference.atomic import write_atomically
from inference.style.onnx_file import read_style
from inference.style.styles import FOLDER, shipped_styles
from models.errors import WebError

PAGE = Path(__file__).parent
RUNTIME = PAGE / "node_modules" / "onnxruntime-web" / "dist"
PAGE_SOURCES = (
    "levels.js",
    "state.js",
    "engine.js",
    "painting.js",
    "saving.js",
    "address.js",
    "styles.js",
    "sources.js",
    "page.js",
)
SOURCES = ("index.html", "style.css", "example.jpg", *PAGE_SOURCES)
# A local file's page and worker take no modules that lie elsewhere, so they become one script.
WORKER_SOURCES = ("levels.js", "tiles.js", "onnx.js", "painter.js")
# onnxruntime-web in two builds, of which a browser fetches one: with WebGPU, and the smaller one without.
WASM_ONLY = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WITH_WEBGPU = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
PRECISIONS = ("fp32", "fp16", "int8")
SINGLE_FILE_PRECISION = "int8"  # the smallest, and the fastest in WebAssembly

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".wasm": "application/wasm",
}

Content = Callable[[], bytes]


@functools.cache
def headers() -> dict[str, str]:
    """What every answer says besides its content."""
    return {
        # Without the first two a browser gives no page memory that several threads share.
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        # The page's own policy once more: a worker, where the pictures are, takes it from the answer that it comes in.
        "Content-Security-Policy": re.findall(r'Policy" content="([^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8"))[
            0
        ],
    }


def styles_list(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The realtime tier of every shipped style, as the page shows it; "files": precision -> its path in the site."""
    listed = []
    for style in shipped_styles(folder):
        if style.tier != "realtime":
            continue
        files = {"fp32": style.path}
        files |= {
            flavor: style.path.with_name(f"{style.tier}.{flavor}.onnx") for flavor in style.flavors if flavor in PRECISIONS
        }
        listed.append(
            {
                "name": style.name,
                "title": style.card.get("title", style.name),
                "thumbnail": f"data:image/jpeg;base64,{read_style(style.path)[1].thumbnail}",
                "files": {precision: f"styles/{style.name}/{path.name}" for precision, path in files.items()},
            }
        )
    return listed


def site(folder: Path = FOLDER) -> dict[str, Content]:
    """Every file of the page: its path in the site -> what gives its bytes.

    Raises:
        WebError: onnxruntime-web is not installed.
    """
    check_runtime()
    styles = styles_list(folder)
    files: dict[str, Content] = {name: (PAGE / name).read_bytes for name in SOURCES}
    files["worker.js"] = lambda: joined(WORKER_SOURCES)
    files |= {f"ort/{name}": (RUNTIME / name).read_bytes for name in (*WASM_ONLY, *WITH_WEBGPU)}
    for style in styles:
        files |= {path: (folder / path.removeprefix("styles/")).read_bytes for path in style["files"].values()}
    files["styles.json"] = json.dumps(styles, indent=1).encode
    return files


def joined(names: Sequence[str]) -> bytes:
    """JavaScript modules as one script, in which a name can be used once only."""
    texts = ((PAGE / name).read_text(encoding="utf-8") for name in names)
    return "".join(re.sub(r"^import .*\n|^export ", "", text, flags=re.MULTILINE) for text in texts).encode()


def check_runtime() -> None:
    """Raises:
    WebError: onnxruntime-web is not installed; the message has the line that installs it.
    """
    missing = [name for name in (*WASM_ONLY, *WITH_WEBGPU) if not (RUNTIME / name).is_file()]
    if missing:
        line = f"npm ci --prefix {shlex.quote(str(PAGE))}"
        raise WebError(f"the page needs onnxruntime-web, {missing[0]} is missing; install it with: {line}")


def make_server(port: int, folder: Path = FOLDER) -> http.server.ThreadingHTTPServer:
    """A server of the page, for this machine alone; `serve_forever` runs it.

    Args:
        port: 0 takes any that is free.
    Raises:
        WebError: the port is taken, or onnxruntime-web is not installed.
    """
    files = site(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # Under another name this would be a stranger's site, with our pages in it.
            if self.headers.get("Host", "").partition(":")[0] not in ("localhost", "127.0.0.1"):
                return self.send_error(403)
            path = self.path.partition("?")[0].removeprefix("/") or "index.html"
            content = files.get(path)
            self._answer(200 if content else 404, path, content() if content else b"not here\n")

        do_HEAD = do_GET

        def _answer(self, status: int, path: str, data: bytes) -> None:
            self.send_response(status)
            kind = TYPES.get(Path(path).suffix, "application/octet-stream")
            self.send_header("Content-Type", kind if status == 200 else "text/plain")
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers().items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            """Nothing: the terminal is for the address."""

    class Server(http.server.ThreadingHTTPServer):
        allow_reuse_address = os.name == "posix"  # on Windows it would let two programs have one port

        def handle_error(self, *arguments: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # a tab that was closed meanwhile
                super().handle_error(*arguments)

    try:
        return Server(("127.0.0.1", port), Handler)
    except OSError as error:
        raise WebError(f"port {port} cannot be used ({error.strerror or error}); give another: --port 0") from error


def export_folder(target: Path, folder: Path = FOLDER) -> int:
    """Write the page for any static host.

    Args:
        target: a new or empty folder.
    Returns:
        its size in bytes.
    Raises:
        WebError: the folder holds something, cannot be written, or onnxruntime-web is not installed.
    """
    files = site(folder)
    # What some hosts (Netlify, Cloudflare Pages) read; on others threads need the same headers set by hand.
    lines = "".join(f"  {name}: {value}\n" for name, value in headers().items() if name != "Cache-Control")
    files["_headers"] = f"/*\n{lines}".encode
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
    except BaseException:  # half a page is none, and in its way the next time
        shutil.rmtree(target, ignore_errors=True)
        if existed:
            target.mkdir(exist_ok=True)
        raise
    return size


def write_single_file(output: Path, overwrite: bool, folder: Path = FOLDER) -> int:
    """Write the page as one .html that works from the disk, with ONNX Runtime (WebAssembly) and the styles inside.

    Returns:
        its size in bytes.
    Raises:
        WebError: not named .html, it exists, cannot be written, or onnxruntime-web is not installed.
    """
    if output.suffix.lower() not in (".html", ".htm"):
        raise WebError(f"{output} is not named .html; give --single-file OUT.html")
    if output.exists() and not overwrite:
        raise WebError(f"{output} exists; give --overwrite to replace it, or another name")
    check_runtime()
    styles, files = styles_list(folder), {}
    for style in styles:
        path = style["files"].get(SINGLE_FILE_PRECISION, style["files"]["fp32"])
        files[path] = _packed((folder / path.removeprefix("styles/")).read_bytes())
        style["files"] = {"fp32": path}
    module, wasm = ((RUNTIME / name).read_bytes() for name in WASM_ONLY)
    inside = {
        "worker": _packed(joined(WORKER_SOURCES)),
        "module": _packed(module),
        "wasm": _packed(wasm),
        "styles": styles,
        "files": files,
    }
    page, css = ((PAGE / name).read_text(encoding="utf-8") for name in ("index.html", "style.css"))
    script = joined(PAGE_SOURCES).decode()
    example = base64.b64encode((PAGE / "example.jpg").read_bytes()).decode()
    for old, new in (
        ('<link rel="stylesheet" href="style.css">', f"<style>\n{css}</style>"),
        ('src="example.jpg"', f'src="data:image/jpeg;base64,{example}"'),
        (
            '<script type="module" src="page.js"></script>',
            f'<script type="application/json" id="inside">{_in_html(inside)}</script>\n'
            f'<script type="module">\n{script}</script>',
        ),
        # Nothing is fetched any more, so nothing may be; what is inside may run.
        ("script-src 'self' blob:", "script-src 'unsafe-inline' blob: data:"),
        ("style-src 'self'", "style-src 'unsafe-inline'"),
        ("connect-src 'self' blob:", "connect-src blob:"),
        ("worker-src 'self' blob:", "worker-src blob:"),
    ):
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    data = page.encode()
    try:
        write_atomically(output, data)
    except OSError as error:
        raise WebError(f"{output} cannot be written: {error.strerror or error}") from error
    return len(data)


def _in_html(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("</", "<\\/")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
