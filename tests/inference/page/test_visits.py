"""What a visit downloads, what it needs, and what a newcomer sees."""

import base64
import functools
import http.server
import json
import re

import numpy as np
import pytest
from films import drifting, write_film
from tab import FIRST, REALTIME, SET, Page, Quiet, serving

from allaprima.inference.page import web
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style

MAX_BYTES = 4.5e6  # up to the first painting


class counted(serving):
    """A server that records its answers: (path, status, bytes)."""

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        super().__init__(server)
        self.answers: list[tuple[str, int, int]] = []
        handler, answer = server.RequestHandlerClass, server.RequestHandlerClass._answer

        def noted(each, status, said, data=b""):
            self.answers.append((each.path, status, len(data)))
            answer(each, status, said, data)

        handler._answer = noted


@pytest.fixture
def exported(run, tmp_path, address):
    """The exported page on a plain static host; `address` skips the test if npm's packages are missing."""
    assert run("web", "--export", tmp_path / "site")[0] == 0
    handler = functools.partial(Quiet, directory=tmp_path / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with serving(server) as base:
        yield base


def test_the_first_painting_takes_few_bytes_and_the_second_visit_only_a_check(address, browser, photo):
    server = counted(web.make_server(0))
    with server as base, Page(browser, base) as page:
        page.open(photo)
        first = list(server.answers)
        assert 3e6 < sum(size for *_, size in first) < MAX_BYTES
        server.answers.clear()
        page.tab.goto("about:blank")
        page.tab.goto(f"{base}?backend=wasm")
        page.ready()
        page.open(photo)
        assert [path.partition("?")[0] for path, *_ in server.answers] == ["/"]
        page.choose("The Great Wave")
        names = [path for path, *_ in server.answers[1:]]
        assert sorted(re.sub(r"\.\w{10}", "", name) for name in names) == [
            "/files/styles/great_wave/check",
            "/files/styles/great_wave/realtime.int8.onnx",
        ]


def test_files_are_cached_for_good_and_the_page_is_revalidated(address):
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    with urlopen(address) as answer:
        tag, text = answer.headers["ETag"], answer.read().decode()
        assert answer.headers["Cache-Control"] == "no-cache"
    with pytest.raises(HTTPError, match="304") as error:
        urlopen(Request(address, headers={"If-None-Match": tag}))
    error.value.close()
    script = re.search(r'src="(files/page\.\w{10}\.js)"', text)[1]
    with urlopen(address + script) as answer:
        assert "immutable" in answer.headers["Cache-Control"]


def test_what_was_used_before_works_offline_and_the_rest_says_why_not(exported, browser, photo):
    with Page(browser, exported) as page:
        page.choose("The Great Wave")
        page.open(photo)
        page.context.set_offline(True)
        page.tab.reload()
        page.ready()
        assert page.tab.inner_text("#backend").startswith("CPU, ")
        page.open(photo)
        page.choose("The Starry Night")
        page.tab.locator("#choices label", has_text="The Scream").click()
        page.message("You are offline, and this is not on your device yet")
        page.trouble.clear()  # the browser's own messages about missing files


def test_a_new_page_replaces_the_cached_one(exported, browser, photo, tmp_path):
    with Page(browser, exported) as page:
        index = tmp_path / "site" / "index.html"
        index.write_text(index.read_text().replace("<h1>Alla Prima</h1>", "<h1>Newer</h1>"))
        page.tab.reload()
        page.ready()
        assert page.tab.inner_text("h1") == "Newer"
        worker = tmp_path / "site" / "sw.js"
        names = re.search(r"FILES = (\[.*?\]);", worker.read_text())[1]
        later = [name for name in json.loads(names) if "starry_night/realtime.int8" not in name]
        worker.write_text(worker.read_text().replace(names, json.dumps(later)))
        page.tab.reload()
        page.ready()
        gone = """async () => {
          const store = await caches.open((await caches.keys())[0]);
          return (await store.keys()).every(({ url }) => !url.includes('starry_night/realtime.int8'));
        }"""
        for _ in range(50):
            if page.tab.evaluate(gone):
                break
            page.tab.wait_for_timeout(100)
        assert page.tab.evaluate(gone)


@pytest.mark.parametrize("kind", ["photo", "style"])
def test_what_is_opened_before_the_service_worker_takes_over_is_kept(exported, browser, photo, kind):
    context = browser.new_context()
    context.add_init_script("""
      const decode = createImageBitmap;
      window.createImageBitmap = async (...given) => {
        await new Promise((done) => setTimeout(done, 1500));
        return decode(...given);
      };
      const register = ServiceWorkerContainer.prototype.register;
      ServiceWorkerContainer.prototype.register = async function (...given) {
        await new Promise((done) => setTimeout(done, 800));
        return register.apply(this, given);
      };
    """)
    tab = context.new_page()
    tab.goto(f"{exported}?backend=wasm")
    if kind == "photo":
        tab.set_input_files("#file", photo)
        tab.wait_for_selector("#stage[data-state='painted']", timeout=60000)
    else:
        tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        tab.set_input_files("#model", find_style("the_scream/realtime.int8"))
        tab.locator("#card", has_text="The Scream").wait_for(timeout=60000)
    assert not tab.evaluate("crossOriginIsolated")  # it was not reloaded
    context.close()


def test_a_whole_video_offline_says_why_not(exported, browser, tmp_path):
    film = write_film(tmp_path / "film.mp4", drifting(5))
    with Page(browser, exported) as page:
        page.painted(lambda: page.tab.set_input_files("#file", film))
        page.context.set_offline(True)
        page.tab.click("#film")
        page.message("You are offline, and this is not on your device yet")
        page.trouble.clear()


def test_without_a_service_worker_it_paints_in_one_thread(exported, browser, photo):
    with Page(browser, exported, service_workers="block") as page:
        page.open(photo)
        assert page.tab.inner_text("#backend") == "CPU, 1 thread"
        assert "the server does not send the headers that threads need" in page.tab.inner_text("#why")
        page.trouble.clear()


def test_a_folder_opened_as_files_says_what_is_needed(run, browser, address, tmp_path):
    assert run("web", "--export", tmp_path / "site")[0] == 0
    tab = browser.new_page()
    tab.goto((tmp_path / "site" / "index.html").as_uri())
    tab.locator("#message", has_text="it was opened as a file").wait_for()
    assert "allaprima web --single-file" in tab.inner_text("#message")
    tab.close()


def test_a_server_that_is_gone_is_reported(address, browser):
    with Page(browser, address) as page:
        page.tab.route("**/the_scream/*.onnx", lambda route: route.abort())
        page.tab.locator("#choices label", has_text="The Scream").click()
        page.message("The server does not answer; does allaprima web still run?")
        page.tab.unroute("**/the_scream/*.onnx")
        page.tab.route("**/the_scream/*.onnx", lambda route: route.fulfill(status=404))
        page.tab.locator("#choices label", has_text="The Scream").click()
        page.message("is missing here (404)")
        assert page.tab.locator("#choices label:has(input:checked)").inner_text() == FIRST.card["title"]
        page.trouble.clear()


def test_link_previews_have_a_picture_and_the_address(run, address, tmp_path):
    assert run("web", "--export", tmp_path / "site", "--url", "https://example.org/paint")[0] == 0
    text = (tmp_path / "site" / "index.html").read_text()
    picture = re.search(r'og:image" content="https://example.org/paint/(files/example\.\w+\.jpg)"', text)[1]
    assert (tmp_path / "site" / picture).is_file()
    manifest = json.loads((tmp_path / "site" / "manifest.webmanifest").read_text())
    assert (tmp_path / "site" / manifest["icons"][0]["src"]).is_file()
    for wrong in (["--url", "https://example.org"], ["--export", tmp_path / "b", "--url", "example.org"]):
        code, _, err = run("web", *wrong)
        assert code == 1
        assert "an address, https://..., and goes with --export" in err


# ---- a network that this machine computes wrongly ----


def wrong_levels(name: str) -> bytes:
    return bytes(255 - level for level in web.painted_test_picture(find_style(name)))


def test_a_precision_that_this_machine_computes_wrongly_is_not_used(address, browser, photo, frame):
    with Page(browser, address) as page:
        page.tab.route(
            "**/the_scream/*int8*", lambda route: route.fulfill(body=find_style("great_wave/realtime.int8").read_bytes())
        )
        page.choose("The Scream")
        assert "fp32" in page.tab.inner_text("#network")
        page.tab.select_option("#size", "4096")
        assert np.abs(page.open(photo) - StyleSession(find_style("the_scream/realtime")).stylize(frame)).max() <= 2


def test_a_wrongly_computed_precision_is_not_used_for_the_second_style_either(address, browser, photo, frame):
    wave, scream = (StyleSession(find_style(f"{name}/realtime")).stylize(frame) for name in (FIRST.name, "the_scream"))
    wrong = find_style("great_wave/realtime.int8").read_bytes()
    with Page(browser, address) as page:
        page.tab.route("**/the_scream/*int8*", lambda route: route.fulfill(body=wrong))
        page.tab.select_option("#size", "4096")
        page.choose(FIRST.card["title"])
        page.open(photo)
        page.tab.select_option("#second", "the_scream")
        for _ in range(200):  # it may still show an earlier painting
            page.tab.wait_for_timeout(100)
            off = np.abs(page.pixels() - 0.5 * wave - 0.5 * scream).mean()
            if off < 3:
                break
        assert off < 3


def test_a_style_that_is_always_computed_wrongly_is_refused(address, browser):
    with Page(browser, address) as page:
        page.tab.route("**/the_scream/check*", lambda route: route.fulfill(body=wrong_levels("the_scream/realtime")))
        page.tab.locator("#choices label", has_text="The Scream").click()
        page.message("the_scream is computed wrongly in fp32 here")
        assert page.tab.locator("#choices label:has(input:checked)").inner_text() == FIRST.card["title"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_correct_painting_is_far_from_the_limit(address, browser, precision):
    with Page(browser, address) as page:
        off, limit = page.tab.workers[0].evaluate(
            """async ([styles, precision]) => {
              const found = [];
              for (const [file, levels] of styles) {
                const [bytes, expected] = [file, levels].map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
                const contract = readContract(bytes), session = await openSession(bytes, false);
                found.push(await levelsOff({ session, contract }, expected));
              }
              return [found, MAX_OFF[precision]];
            }""",
            [
                [
                    [base64.b64encode(data).decode() for data in (path.read_bytes(), web.painted_test_picture(style.path))]
                    for style in REALTIME
                    for path in [style.path if precision == "fp32" else style.path.with_name(f"realtime.{precision}.onnx")]
                ],
                precision,
            ],
        )
    print(precision, [round(each, 2) for each in off])
    assert len(off) >= 12
    assert max(off) <= limit / 2


# ---- what is seen ----


def test_each_style_shows_its_painting_beside_the_painted_example(address, browser):
    with Page(browser, address) as page:
        pictures = page.tab.evaluate(
            """async () => {
              const labels = [...document.querySelectorAll('#choices label')];
              return Promise.all(labels.map(async (label) => {
                const images = [...label.querySelectorAll('img')];
                await Promise.all(images.map((image) => image.decode()));
                return images.map(({ src, width }) => [src.includes('/painting.') ? 'painting' : 'painted', width > 40]);
              }));
            }"""
        )
    assert len(pictures) >= 12
    assert all(each == [["painting", True], ["painted", True]] for each in pictures)


def test_technical_terms_are_out_of_the_way(address, browser):
    with Page(browser, address) as page:
        page.tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = false; })")
        words = page.tab.inner_text("main") + page.tab.inner_text("footer")
        assert not re.search(r"onnx|int8|fp32|network|thread|COOP", words, re.IGNORECASE)
        assert "A painting of your own" in words


def test_a_style_is_in_view_at_200_percent(address, browser):
    with Page(browser, address, viewport={"width": 700, "height": 450}) as page:
        box = page.tab.locator("#choices label:has(input:checked)").bounding_box()
        assert box["y"] + box["height"] <= 450


@pytest.mark.parametrize("live", [False, True])
def test_on_a_phone_the_buttons_stay_under_the_picture(address, browser, photo, live):
    with Page(browser, address, viewport={"width": 390, "height": 844}) as page:
        page.painted(lambda: page.tab.click("#camera")) if live else page.open(photo)
        page.tab.evaluate("scrollTo(0, 400)")
        page.tab.wait_for_timeout(200)
        assert page.tab.evaluate("scrollY") > 100
        for button in ["#snapshot", "#record"][: 1 + live]:
            box = page.tab.locator(button).bounding_box()
            assert 0 < box["y"] < 600
            assert box["height"] >= 44


LUMINANCES = """(names) => {
  const channel = (level) => (level /= 255) <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4;
  const luminance = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((level) => channel(Number(level)));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  return names.map((name) => [luminance(getComputedStyle(document.querySelector(name)).borderTopColor), paper]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_borders_of_controls_have_enough_contrast(address, browser, scheme):
    """WCAG 2.1, 1.4.11: 3:1."""
    with Page(browser, address, color_scheme=scheme) as page:
        names = ["#camera", ".button", "#size", "#choices label:not(:has(input:checked))"]
        for pair in page.tab.evaluate(LUMINANCES, names):
            assert (max(pair) + 0.05) / (min(pair) + 0.05) >= 3


def test_a_slow_style_shows_its_progress(address, browser):
    with Page(browser, address) as page:
        held = []
        page.tab.route("**/the_scream/*.onnx", lambda route: held.append(route))
        page.tab.locator("#choices label", has_text="The Scream").click(no_wait_after=True)
        page.tab.evaluate(SET, ["strength", 90])
        while not held:
            page.tab.wait_for_timeout(20)
        held[0].continue_()
        page.tab.locator("#card", has_text="The Scream").wait_for()
        assert page.tab.locator("#loading").is_hidden()
