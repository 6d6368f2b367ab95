"""How the page is served, exported, and joined into one file."""

import functools
import http.server
import re
import urllib.error
import urllib.request

import numpy as np
import pytest
from tab import EXAMPLE, FIRST, SEND, Page, Quiet, serving

from allaprima.inference.page import web
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style
from allaprima.models.errors import WebError


@pytest.mark.parametrize("sources", [web.PAGE_SOURCES, web.WORKER_SOURCES])
def test_no_name_is_defined_twice_in_files_joined_into_one_script(sources):
    """A second function of the same name would silently replace the first."""
    script = web.joined(sources).decode()
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", script, flags=re.MULTILINE)
    assert len(names) > 30
    assert len(set(names)) == len(names)
    assert not re.search(r"^(import|export)\b", script, flags=re.MULTILINE)


def test_the_server_allows_threads_and_answers_only_this_machine(address):
    with urllib.request.urlopen(address) as answer:
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert b"connect-src 'self' blob:;" in answer.read()
    for path in (
        "../web.py",
        "..%2fweb.py",
        "node_modules/onnxruntime-web/package.json",
        "styles/great_wave/quality.onnx",
        "nothing",
    ):
        with pytest.raises(urllib.error.HTTPError, match="404") as error:
            urllib.request.urlopen(address + path)
        error.value.close()
    stranger = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403") as error:
        urllib.request.urlopen(stranger)
    error.value.close()
    server = web.make_server(0)
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(WebError, match=f"port {server.server_port} cannot be used .*--port 0"):
        web.make_server(server.server_port)
    server.server_close()


def test_the_exported_folder_works_on_any_static_host(address, browser, run, photo, tmp_path):
    assert run("web", "--export", tmp_path / "site")[0] == 0
    code, _, err = run("web", "--export", tmp_path / "site")
    assert code == 1
    assert "holds files; give a new or empty folder" in err
    plain = functools.partial(Quiet, directory=tmp_path / "site")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), plain)) as base, Page(browser, base) as page:
        page.open(photo)
        assert page.tab.evaluate("crossOriginIsolated")  # by the service worker
        assert "COOP" not in page.tab.inner_text("#why")


@pytest.mark.parametrize("existed", [False, True])
def test_a_page_that_does_not_fit_on_the_disk_leaves_no_partial_files(run, monkeypatch, tmp_path, existed):
    def full():
        raise OSError(28, "No space left on device")

    def written(path, data):
        full() if path.name == "b.js" else path.write_bytes(data)

    monkeypatch.setattr(web, "site", lambda *_, **__: {"index.html": lambda: b"x", "ort/b.js": lambda: b"y"})
    monkeypatch.setattr(web, "write_atomically", written)
    if existed:
        (tmp_path / "site").mkdir()
    code, _, err = run("web", "--export", tmp_path / "site")
    assert code == 1
    assert "b.js cannot be written: No space left on device" in err
    assert [path.name for path in tmp_path.rglob("*")] == ["site"] * existed


def test_neither_page_nor_worker_can_send_a_picture_anywhere(address, browser, tmp_path, run):
    """Also on a server without our headers."""
    assert run("web", "--export", tmp_path / "site")[0] == 0
    plain = functools.partial(Quiet, directory=tmp_path / "site")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), plain)) as base:
        for here, elsewhere in ((address, base), (base, address)):
            with Page(browser, here) as page:
                assert page.tab.evaluate(SEND, elsewhere) == "refused"
                assert page.tab.workers[0].evaluate(SEND, elsewhere) == "refused"
                assert all("Content Security Policy" in trouble or elsewhere in trouble for trouble in page.trouble)
                page.trouble.clear()


def test_the_exported_folder_says_what_a_hub_of_demos_asks(address, run, tmp_path):
    yaml = pytest.importorskip("yaml")
    assert run("web", "--export", tmp_path / "site", "--url", "https://example.org/paint")[0] == 0
    _, front, text = (tmp_path / "site" / "README.md").read_text().split("---\n")
    about = yaml.safe_load(front)
    assert (about["title"], about["sdk"], about["license"]) == ("Alla Prima", "static", "mit")
    assert len(about["short_description"]) <= 60
    assert (tmp_path / "site" / about["app_file"]).is_file()
    assert about["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert about["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    assert front.isascii()
    assert "https://example.org/paint" in text


def test_the_single_file_works_from_the_disk(address, browser, run, photo, frame, tmp_path):
    output = tmp_path / "one.html"
    assert run("web", "--single-file", output)[0] == 0
    code, _, err = run("web", "--single-file", output)
    assert code == 1
    assert "--overwrite" in err
    assert run("web", "--single-file", tmp_path / "one.txt")[0] == 1
    expected = StyleSession(find_style(f"{FIRST.full_name}.int8")).stylize(frame)
    with Page(browser, output.as_uri(), path="") as page:
        assert page.tab.evaluate(EXAMPLE) == [902, False]
        assert page.pixels().shape == (300, 451, 3)
        page.tab.select_option("#size", "4096")
        assert np.abs(page.open(photo) - expected).mean() <= 1.5
        assert page.tab.evaluate(SEND, address) == "refused"
        assert page.tab.workers[0].evaluate(SEND, address) == "refused"
        page.trouble.clear()


def test_a_missing_runtime_is_reported_with_the_command_that_installs_it(run, monkeypatch, tmp_path):
    monkeypatch.setattr(web, "RUNTIME", tmp_path)
    code, _, err = run("web", "--port", "0")
    assert code == 1
    assert f"install them with: npm ci --prefix {web.PAGE}" in err
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    assert "npm is Node's; pip install 'allaprima[node]' brings it" in run("web", "--port", "0")[2]


def test_the_lock_file_pins_onnx_runtime_and_names_no_address():
    lock = (web.PAGE / "package-lock.json").read_text()
    assert '"node_modules/onnxruntime-web"' in lock
    assert "http" not in lock
    assert '"integrity"' in lock
