"""The page in a real browser: headless Chromium with a fake camera, no network."""

import base64
import functools
import http.server
import io
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from films import drifting, write_film
from PIL import Image

from inference.color import keep_luminance
from inference.landscape import paint_landscape
from inference.levels import level_sizes, paint_levels
from inference.options import StylizeOptions
from inference.page import web
from inference.painter import paint_photo
from inference.pictures import read_picture
from inference.style.session import StyleSession
from inference.style.styles import find_style, shipped_styles
from models.errors import WebError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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


@pytest.fixture(scope="module")
def address():
    """The page, served."""
    try:
        web.check_packages()
    except WebError as error:
        pytest.skip(str(error))
    with serving(web.make_server(0)) as base:
        yield base


class serving:
    """A server that runs in a thread."""

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self.server = server

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://localhost:{self.server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield browser


REALTIME = [style for style in shipped_styles() if style.tier == "realtime"]
FIRST = next(style for style in REALTIME if style.name == "starry_night")  # what the page begins with


class Page:
    """A tab with the page in it; at its end it must have written nothing to the console, nor asked anybody but its server."""

    def __init__(self, browser, base, permissions=("camera",), path="?backend=wasm", **options) -> None:
        self.context = browser.new_context(permissions=list(permissions), **options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.trouble, self.base = [], base
        self.tab.on("console", lambda message: self.trouble.append(message.text))
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
        """The picture that is shown after an act, when it is painted."""
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


@pytest.fixture(scope="module")
def frame():
    """A real photo, of a size that no network takes as it is."""
    return np.ascontiguousarray(read_picture(web.PAGE.parents[1] / "training/reference_photos/astronaut.jpg").frame[:203, :158])


@pytest.fixture
def photo(tmp_path, frame):
    Image.fromarray(frame).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def exact(page: Page) -> None:
    """Networks in fp32, at the picture's own size."""
    page.tab.select_option("#precision", "fp32")
    page.tab.locator("#network", has_text="fp32").wait_for()
    page.tab.select_option("#size", "4096")


def test_every_style_paints_in_the_browser_what_python_paints(address, browser, photo, frame):
    with Page(browser, address) as page:
        exact(page)
        page.choose("The Scream")
        page.open(photo)
        for style in shipped_styles():
            if style.tier == "realtime":
                if style.name != "the_scream":
                    page.painted(functools.partial(page.choose, style.card["title"]))
                else:
                    page.painted(lambda: page.choose("Composition VII"))
                    page.painted(lambda: page.choose("The Scream"))
                expected = StyleSession(style.path).stylize(frame)
                assert np.abs(page.pixels() - expected).max() <= 2, style.full_name


def test_sliders_blend_and_keep_colors_as_python_does(address, browser, photo, frame):
    stylized = StyleSession(find_style("great_wave/realtime")).stylize(frame)
    with Page(browser, address) as page:
        exact(page)
        page.choose("The Great Wave")
        assert np.abs(page.open(photo) - stylized).max() <= 2
        kept = keep_luminance(frame, stylized)
        assert np.abs(page.set("keep_color", 100) - kept).max() <= 2
        assert np.abs(page.set("strength", 0) - frame).max() == 0
        page.set("keep_color", 0)
        assert np.abs(page.set("strength", 40) - (0.4 * stylized + 0.6 * frame)).max() <= 2


SIZES = [(576, 768), (640, 853), (768, 1024), (3024, 4032), (576, 769), (200, 30000), (54, 8146), (1, 1), (6000, 4000)]


def test_levels_have_the_sizes_that_python_gives_them(address, browser):
    cases = [[*size, strokes] for size in SIZES for strokes in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)]
    with Page(browser, address) as page:
        found = page.tab.workers[0].evaluate("(cases) => cases.map((each) => levelSizes(...each))", cases)
    assert [[tuple(size) for size in sizes] for sizes in found] == [level_sizes(*case) for case in cases]


@pytest.mark.parametrize(("octaves", "strokes"), [(2, 4.0), (1.5, 2**1.5), (-2.25, 0.0)])
def test_strokes_are_as_large_as_python_makes_them(address, browser, tmp_path, octaves, strokes):
    content = paint_landscape(481, 640)
    Image.fromarray(content).save(tmp_path / "photo.png")
    expected = paint_levels(StyleSession(find_style("starry_night/realtime")), content, strokes, 1.0)
    with Page(browser, address) as page:
        exact(page)
        page.choose("The Starry Night")
        page.open(tmp_path / "photo.png")
        painted = page.set("strokes", octaves)
        assert np.abs(painted - expected).mean() <= 1.5
        assert page.tab.inner_text("#strokes + output").split()[0] == (f"{strokes:.2g}" if strokes else "fine")


@pytest.mark.parametrize(("octaves", "pixels"), [(0, 1024 * 768), (-2, 2**21)])
def test_a_photo_is_shown_large_enough_for_its_strokes(address, browser, tmp_path, octaves, pixels):
    Image.fromarray(np.full((1500, 2000, 3), 128, np.uint8)).save(tmp_path / "photo.png")
    with Page(browser, address) as page:
        page.tab.evaluate(SET, ["strokes", octaves])
        height, width = page.open(tmp_path / "photo.png").shape[:2]
        assert abs(height * width / pixels - 1) < 0.01


def test_auto_limits_the_pixels_and_not_the_sides(address, browser, tmp_path):
    Image.fromarray(np.full((100, 12000, 3), 128, np.uint8)).save(tmp_path / "panorama.png")
    with Page(browser, address) as page:
        height, width = page.open(tmp_path / "panorama.png").shape[:2]
        assert abs(height * width / (1024 * 768) - 1) < 0.02


@pytest.mark.parametrize("flavor", ["frame", "int8", "fp16"])
def test_any_of_our_files_may_be_opened(address, browser, photo, frame, flavor):
    style = find_style(f"starry_night/realtime.{flavor}")
    expected = StyleSession(style).stylize(frame)
    with Page(browser, address) as page:
        page.open(photo)
        painted = page.painted(lambda: page.tab.set_input_files("#model", style))
        page.tab.locator("#card", has_text="The Starry Night").wait_for()
        # 8-bit sums are rounded differently by each processor's kernels.
        assert np.abs(painted - expected).mean() <= (1.5 if flavor == "int8" else 0.1)
        assert np.abs(painted - expected).max() <= (24 if flavor == "int8" else 2)


def test_a_file_that_is_not_ours_is_refused_and_the_style_stays(address, browser, photo, tmp_path):
    (tmp_path / "foreign.onnx").write_bytes(b"\x08\x0a" + bytes(40))
    (tmp_path / "broken.onnx").write_bytes(find_style("great_wave/realtime").read_bytes()[:5000])
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    with Page(browser, address) as page:
        before = page.open(photo)
        page.tab.set_input_files("#model", tmp_path / "foreign.onnx")
        page.message("foreign.onnx is")
        page.tab.set_input_files("#model", tmp_path / "broken.onnx")
        page.message("broken.onnx is damaged")
        np.testing.assert_array_equal(page.set("strength", 100), before)
        page.tab.set_input_files("#file", tmp_path / "no.jpg")
        page.message("no.jpg is not a photo, video or .onnx file that this browser can open")
        assert page.tab.locator("#choices label:has(input:checked)").inner_text() == FIRST.card["title"]


def test_a_snapshot_is_the_picture_on_the_screen(address, browser, photo):
    with Page(browser, address) as page:
        painted = page.open(photo)
        page.tab.select_option("#format", "image/png")
        with page.tab.expect_download() as download:
            page.tab.click("#snapshot")
        assert download.value.suggested_filename.startswith(f"allaprima_{FIRST.name}_")
        saved = np.asarray(Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB"))
        np.testing.assert_array_equal(saved, painted)


LARGE = (1240, 1640)  # more than the page paints at once, and no multiple of anything


@pytest.fixture(scope="module")
def large_photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.fromarray(paint_landscape(*LARGE)).save(path)
    return path


def test_a_photo_is_saved_at_full_size_as_python_paints_it_without_seams(address, browser, large_photo):
    content = paint_landscape(*LARGE)
    with Page(browser, address) as page:
        preview = page.open(large_photo)
        assert preview.shape[0] * preview.shape[1] <= 1024 * 768 * 1.01
        page.set("strength", 80)
        page.set("keep_color", 50)
        with page.tab.expect_download() as download:
            page.tab.click("#full_size")
            page.tab.locator("#speed", has_text=re.compile(r"Full size, 1640 . 1240 px: \d+ %")).wait_for()
        assert download.value.suggested_filename.endswith(".jpg")
        saved = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
        page.tab.locator("#speed", has_text="Saved at").wait_for()
        assert page.set("keep_color", 0).shape == preview.shape  # it goes on as before
    assert saved.shape == content.shape
    painted = paint_levels(StyleSession(find_style(f"{FIRST.full_name}.int8")), content, 1.0, 1.0)
    half = 0.5 * painted + 0.5 * keep_luminance(content, painted)
    expected = 0.8 * half + 0.2 * content
    assert np.abs(saved - expected).mean() <= 4
    # The steps from row to row, and from column to column, beyond those of the painting that has no tiles.
    for axis in (0, 1):
        steps, true_steps = (np.abs(np.diff(each, axis=axis)).mean(axis=(1 - axis, 2)) for each in (saved, expected))
        assert (steps - true_steps).max() <= (steps - true_steps).mean() + 2


def test_a_full_size_is_cancelled_by_its_button_and_by_another_photo(address, browser, large_photo, photo):
    with Page(browser, address) as page:
        page.open(large_photo)
        for cancel in (lambda: page.tab.click("#full_size"), lambda: page.open(photo)):
            page.tab.click("#full_size")
            page.tab.locator("#full_size", has_text="Cancel").wait_for()
            cancel()
            page.tab.wait_for_selector("#full_size:text-is('Save full size')", state="attached")
        assert page.tab.locator("#full_size").is_hidden()  # it is shown as it is


@pytest.mark.parametrize("flavor", ["onnx", "frame.onnx", "int8.onnx", "fp16.onnx"])
def test_a_network_that_is_given_a_pictures_statistics_paints_it_as_before(address, browser, flavor):
    with Page(browser, address) as page:
        page.tab.set_input_files("#model", find_style("starry_night/realtime").with_name(f"realtime.{flavor}"))
        page.tab.locator("#card", has_text="The Starry Night").wait_for()
        differences = page.tab.workers[0].evaluate("""async () => {
          const picture = blank(144, 100);
          for (let i = 0; i < picture.pixels.length; i++) picture.pixels[i] = 99 * Math.sin(i / 99) + 130 + (i % 7);
          const [style] = styles, statistics = await statisticsOf(style, [picture], [0, 0]);
          const painted = await paintWhole(style, style.tiling.given, picture, statistics);
          const expected = await paintWhole(style, style.session, picture);
          return Array.from(painted.pixels, (level, i) => level - expected.pixels[i]);
        }""")
        assert np.abs(differences).mean() <= 0.5
        assert np.abs(differences).max() <= (24 if "int8" in flavor else 3)


def test_tiles_agree_to_the_bit(address, browser):
    with Page(browser, address) as page:
        count = page.tab.workers[0].evaluate("""async () => {
          const picture = blank(602, 406);
          for (let i = 0; i < picture.pixels.length; i++) picture.pixels[i] = 99 * Math.sin(i / 997) + 130 + (i % 7);
          const [style] = styles, statistics = await statisticsOf(style, [picture], [0, 0]);
          const paint = (tile, statistics) => paintWhole(style, style.tiling.given, tile, statistics);
          const network = { measure: async () => statistics, paint, painted: async () => {} };
          const tiled = await paintTiles(picture, 256 * 256, style.contract.stride, network);
          const whole = await paint(picture, statistics);
          return tiled.pixels.filter((level, i) => level !== whole.pixels[i]).length;
        }""")
        assert count == 0


@pytest.mark.parametrize("sources", [web.PAGE_SOURCES, web.WORKER_SOURCES])
def test_no_name_is_used_twice_in_what_becomes_one_script(sources):
    """A function of the same name would replace the other, without a word."""
    script = web.joined(sources).decode()
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", script, flags=re.MULTILINE)
    assert len(names) > 30
    assert len(set(names)) == len(names)
    assert not re.search(r"^(import|export)\b", script, flags=re.MULTILINE)


def recorded_sizes(page: Page, button: str, folder) -> list[str]:
    """The size of each frame of the film that a click on a button finishes."""
    with page.tab.expect_download() as download:
        page.tab.click(button)
    film = folder / download.value.suggested_filename
    download.value.save_as(film)
    probe = "import av, sys; print(*(f'{f.width}x{f.height}' for f in av.open(sys.argv[1]).decode(video=0)))"
    run = subprocess.run([sys.executable, "-c", probe, film], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout.split()


def test_the_camera_is_painted_live_paused_recorded_and_stopped(address, browser, tmp_path):
    with Page(browser, address) as page:
        page.choose("The Great Wave")
        first = page.painted(lambda: page.tab.click("#camera"))
        second = page.painted(lambda: None)
        third = page.painted(lambda: None)
        assert not (np.array_equal(first, second) and np.array_equal(second, third))
        page.tab.locator("#speed", has_text="pictures a second").wait_for()
        page.tab.keyboard.press("r")
        page.tab.locator("#record", has_text="Stop").wait_for()
        for _ in range(10):
            page.painted(lambda: None)
        assert len(recorded_sizes(page, "#record", tmp_path)) >= 5
        page.tab.click("#pause")
        page.tab.locator("#pause", has_text="Go on").wait_for()
        page.tab.wait_for_timeout(500)  # the picture under way
        still = page.pixels()
        page.tab.wait_for_timeout(500)
        np.testing.assert_array_equal(page.pixels(), still)
        page.tab.click("#camera")
        page.tab.wait_for_selector('#stage[data-state="empty"]')


def test_the_link_is_copied_and_paints_the_same(address, browser, photo):
    with Page(browser, address, permissions=("clipboard-read", "clipboard-write")) as page:
        page.choose("The Scream")
        page.open(photo)
        page.set("strength", 60)
        page.tab.click("#copy_link")
        page.message("The link is copied")
        link = page.tab.evaluate("navigator.clipboard.readText()")
    with Page(browser, address, path=link.removeprefix(address)) as page:
        assert page.tab.evaluate("document.getElementById('strength').value") == "60"
        assert "Scream" in page.tab.inner_text("#card")


def test_keys_are_switched_off_and_the_end_of_painting_is_said(address, browser, photo):
    with Page(browser, address) as page:
        page.choose("The Scream")
        page.open(photo)
        page.tab.locator("#done", has_text="Painted as The Scream").wait_for(state="attached")
        page.set("strength", 40)
        assert page.tab.get_attribute("#strength", "aria-valuetext") == "40 %"
        page.tab.uncheck("#keys")
        page.tab.evaluate(
            "window.saved = 0; document.getElementById('snapshot').addEventListener('click', () => window.saved++)"
        )
        page.tab.keyboard.press("s")
        page.tab.check("#keys")
        assert page.tab.evaluate("window.saved") == 0
        page.tab.keyboard.press("s")
        assert page.tab.evaluate("window.saved") == 1


def test_without_javascript_the_page_says_what_is_needed(address, browser):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(address)
    assert "please allow JavaScript" in tab.inner_text("#backend")
    context.close()


def visible(page: Page) -> list[str]:
    """What takes room on the page and is no picture."""
    return page.tab.evaluate(
        """() => [...document.querySelectorAll('body *')]
        .filter((each) => each.checkVisibility() && each.getClientRects().length)
        .filter((each) => each.innerText?.trim() || ['INPUT', 'BUTTON', 'SELECT', 'IMG'].includes(each.tagName))
        .map((each) => each.id || each.tagName)"""
    )


def test_bare_shows_the_cameras_picture_alone(address, browser):
    path = "?backend=wasm&bare&style=great_wave&camera=fake&strokes=fine"
    with Page(browser, address, path=path, viewport={"width": 640, "height": 360}) as page:
        page.painted(lambda: None)
        assert page.tab.evaluate("window.history.length") <= 2
        assert visible(page) == []
        assert page.tab.evaluate("document.getElementById('painting').getBoundingClientRect().toJSON()")["width"] == 640
        assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
        assert not page.tab.is_checked("#mirror")
        assert page.tab.evaluate("document.querySelector('#card').textContent").startswith("“The Great Wave")


def test_bare_says_which_cameras_there_are(address, browser):
    with Page(browser, address, path="?backend=wasm&bare&camera=nothing") as page:
        page.message("There is no camera “nothing”; there is “fake_device_0”")
        assert set(visible(page)) <= {"message", "MAIN", "panel"}


def test_a_recording_keeps_its_size_and_ends_with_the_camera(address, browser, tmp_path):
    with Page(browser, address) as page:
        page.painted(lambda: page.tab.click("#camera"))
        page.tab.click("#record")
        page.painted(lambda: None)
        page.tab.select_option("#size", "256")
        for _ in range(5):
            page.painted(lambda: None)
        assert set(recorded_sizes(page, "#camera", tmp_path)) == {"384x216"}
        assert page.tab.inner_text("#record") == "Record"
        assert not page.trouble


def test_a_still_picture_is_not_recorded(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)
        assert page.tab.is_disabled("#record")
        assert page.tab.is_enabled("#snapshot")


def test_the_style_clicked_last_is_painted_however_late_the_others_arrive(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)

        def late(route):
            time.sleep(0.7)
            route.continue_()

        page.tab.route("**/great_wave/*", late)
        for title in ("The Great Wave", "The Starry Night", "The Scream"):
            page.tab.locator("#choices label", has_text=title).click(no_wait_after=True)
        page.tab.locator("#card", has_text="The Scream").wait_for()
        page.tab.wait_for_timeout(1500)
        assert "The Scream" in page.tab.inner_text("#card")
        assert page.tab.locator("#choices label:has(input:checked)").inner_text() == "The Scream"


@pytest.mark.parametrize(
    ("height", "width", "screen"),
    [(40, 800, (390, 844)), (800, 60, (390, 844)), (800, 60, (1280, 600)), (2, 3, (844, 390)), (40, 800, (1280, 600))],
)
def test_the_whole_picture_is_seen_whatever_its_shape(address, browser, tmp_path, height, width, screen):
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(tmp_path / "shape.png")
    with Page(browser, address, viewport={"width": screen[0], "height": screen[1]}) as page:
        assert page.open(tmp_path / "shape.png").shape[:2] == (height, width)
        stage, painting = (page.tab.locator(name).bounding_box() for name in ("#stage", "#painting"))
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= screen[0]
        assert stage["height"] >= 100
        assert painting["y"] >= stage["y"]
        assert painting["y"] + painting["height"] <= stage["y"] + stage["height"]
        page.tab.evaluate(SET, ["compare", 50])
        middle = page.tab.locator("#divider").bounding_box()
        assert abs(middle["x"] + 1 - stage["x"] - stage["width"] / 2) <= 2


EXAMPLE = (
    "() => { const image = document.querySelector('#example img'); return [image.naturalWidth, image.checkVisibility()]; }"
)


def test_the_first_screen_shows_what_it_is(address, browser, photo):
    with Page(browser, address) as page:
        assert page.tab.evaluate(EXAMPLE) == [902, True]
        assert page.tab.inner_text("#example") == "Your camera or photo, painted. Nothing leaves this device."
        page.open(photo)
        assert page.tab.evaluate(EXAMPLE) == [902, False]


def test_the_examples_right_half_is_what_the_shipped_style_paints():
    data = pytest.importorskip("skimage.data")
    content = np.asarray(Image.fromarray(data.chelsea()).resize((902, 600), Image.Resampling.LANCZOS))
    example = np.asarray(Image.open(web.PAGE / "example.jpg")).astype(int)
    painted = paint_photo(StyleSession(find_style("starry_night/realtime")), content, StylizeOptions())
    whole = np.hstack([content[:, :451], painted[:, 451:]])
    assert np.abs(example - whole).mean() <= 6  # it is a JPEG file


SLIDERS = "() => ['strength', 'keep_color', 'strokes'].map((id) => Number(document.getElementById(id).value))"


@pytest.mark.parametrize(
    ("fragment", "sliders", "title"),
    [
        ("style=the_scream&strength=80&colors=30&strokes=0.5", [80, 30, -1], "The Scream"),
        ("strokes=fine", [100, 0, -2.25], FIRST.card["title"]),
        ("strength=999&colors=-5&strokes=-1", [100, 0, 0], FIRST.card["title"]),
        ("strength=&colors=x&strokes=0", [100, 0, 0], FIRST.card["title"]),
    ],
)
def test_the_address_says_what_is_painted_how(address, browser, fragment, sliders, title):
    with Page(browser, address, path=f"?backend=wasm#{fragment}") as page:
        assert page.tab.evaluate(SLIDERS) == sliders
        assert f"“{title}”" in page.tab.inner_text("#card")
        assert page.tab.url.endswith(f"#{fragment}")


def test_the_address_is_kept_and_restored(address, browser):
    with Page(browser, address) as page:
        assert "#" not in page.tab.url
        page.choose("The Scream")
        page.tab.wait_for_url("**/?backend=wasm#style=the_scream&strength=100&colors=0&strokes=1")
        page.tab.focus("#strokes")
        page.tab.keyboard.press("Home")
        page.tab.wait_for_url("**&strokes=fine")
        page.tab.reload()
        page.ready()
        assert "The Scream" in page.tab.inner_text("#card")
        assert page.tab.inner_text("#strokes + output") == "fine"
        page.tab.evaluate("location.hash = 'style=great_wave&strokes=2'")
        page.tab.locator("#card", has_text="The Great Wave").wait_for()
        assert page.tab.evaluate(SLIDERS)[2] == 1
        page.tab.goto(f"{address}?backend=wasm&again#style=nothing")
        page.message("There is no style “nothing” here.")


def test_a_photo_that_comes_before_the_style_is_shown_and_then_painted(address, browser, photo, frame):
    with Page(browser, address) as page:
        held = []
        page.tab.route("**/*.onnx", lambda route: held.append(route))
        page.tab.reload(wait_until="commit")
        page.tab.wait_for_selector("#choices label")
        page.tab.set_input_files("#file", photo)
        page.message("It is painted as soon as a style is here.")
        shown = page.tab.evaluate(PIXELS.replace("'painting'", "'content'"))
        assert shown[:2] == [frame.shape[1], frame.shape[0]]
        assert page.tab.get_attribute("#stage", "data-painted") is None
        page.painted(held[0].continue_)
        assert page.tab.inner_text("#message") == ""


def test_an_onnx_file_that_comes_before_the_page_has_started_is_the_one_that_paints(address, browser, photo):
    with Page(browser, address) as page:
        held = []
        page.tab.route("**/worker.*.js", lambda route: held.append(route))
        page.tab.reload(wait_until="commit")
        while not held:
            page.tab.wait_for_timeout(50)
        page.tab.set_input_files("#model", find_style("the_scream/realtime.int8"))
        page.tab.wait_for_timeout(200)
        held[0].continue_()
        page.ready()
        page.tab.locator("#card", has_text="The Scream").wait_for()
        page.open(photo)
        assert page.tab.locator("#choices label:has(input:checked)").count() == 0


def test_a_photo_chosen_while_the_camera_is_awaited_stays(address, browser, photo):
    with Page(browser, address) as page:
        page.tab.evaluate("""() => {
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = (how) => new Promise((done) => setTimeout(() => done(open(how)), 800));
        }""")
        page.tab.click("#camera")
        page.message("Waiting for the camera")
        painted = page.open(photo)
        page.tab.wait_for_timeout(1500)
        np.testing.assert_array_equal(page.pixels(), painted)
        assert page.tab.inner_text("#camera") == "Camera"


def test_a_camera_that_cannot_be_changed_leaves_nothing_dead(address, browser):
    with Page(browser, address) as page:
        page.painted(lambda: page.tab.click("#camera"))
        page.tab.evaluate("""() => {
          navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "NotReadableError"));
        }""")
        page.tab.click("#flip")
        page.message("The camera does not answer")
        page.tab.wait_for_selector('#stage[data-state="empty"]')
        assert page.tab.inner_text("#camera") == "Camera"


def test_a_video_file_is_painted(address, browser, tmp_path):
    film = write_film(tmp_path / "film.mp4", drifting(30))
    with Page(browser, address) as page:
        first = page.painted(lambda: page.tab.set_input_files("#file", film))
        page.tab.locator("#speed", has_text="pictures a second").wait_for()
        assert first.shape == (96, 128, 3)
        assert any(not np.array_equal(page.painted(lambda: None), first) for _ in range(10))
        page.tab.click("#pause")


def test_what_is_missing_is_said(address, browser):
    with Page(browser, address, permissions=(), path="?backend=auto") as page:
        page.tab.click("#camera")
        page.message("permission was denied")
        assert page.tab.inner_text("#why").startswith("WebGPU: n")  # "not in this browser", "no GPU that ..."
        assert page.tab.get_attribute("#stage", "data-state") == "empty"


def test_the_page_is_used_by_keyboard_alone(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)
        names = []
        for _ in range(20):
            page.tab.keyboard.press("Tab")
            names.append(page.tab.evaluate("document.activeElement.id || document.activeElement.name"))
        assert [n for n in names if n][:5] == ["camera", "file", "style", "model", "strength"]
        page.tab.focus("#choices input:checked")
        page.painted(lambda: page.tab.keyboard.press("ArrowRight"))
        second = REALTIME[REALTIME.index(FIRST) + 1].card["title"]
        page.tab.locator("#card", has_text=f"“{second}”").wait_for()
        page.tab.focus("#strength")
        assert page.painted(lambda: page.tab.keyboard.press("ArrowLeft")) is not None
        assert page.tab.inner_text("#strength + output") == "99 %"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_every_style_is_reached_by_scrolling_the_list_and_not_the_page(address, browser, width, height):
    last = REALTIME[-1]
    with Page(browser, address, path=f"?backend=wasm#style={last.name}", viewport={"width": width, "height": height}) as page:
        choices, label = (page.tab.locator(name).bounding_box() for name in ("#choices", "#choices label:has(input:checked)"))
        assert choices["x"] <= label["x"] <= choices["x"] + choices["width"] - label["width"]
        assert choices["y"] <= label["y"] <= choices["y"] + choices["height"] - label["height"]
        assert label["height"] >= 44  # a thumb's
        assert page.tab.evaluate("[scrollX, scrollY]") == [0, 0]
        page.tab.focus("#choices input:checked")
        page.tab.keyboard.press("ArrowRight")  # round to the first one
        page.tab.wait_for_url(f"**#style={REALTIME[0].name}&*")
        first = page.tab.locator("#choices label").first.bounding_box()
        assert choices["x"] <= first["x"] <= choices["x"] + choices["width"] - first["width"]
        assert choices["y"] <= first["y"] <= choices["y"] + choices["height"] - first["height"]


@pytest.mark.parametrize(("width", "height", "scheme"), [(390, 844, "light"), (320, 568, "dark"), (1280, 800, "dark")])
def test_nothing_is_wider_than_the_screen(address, browser, photo, width, height, scheme):
    with Page(browser, address, viewport={"width": width, "height": height}, color_scheme=scheme) as page:
        page.open(photo)
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
        box = page.tab.locator("#stage").bounding_box()
        assert box["width"] > 0.6 * min(width, 900)
        assert box["y"] + box["height"] < height


def test_threads_and_only_ours_on_this_machine(address):
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
def test_a_page_that_does_not_fit_on_the_disk_leaves_nothing_in_the_way(run, monkeypatch, tmp_path, existed):
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
    """On a server that knows nothing of our headers, too."""
    assert run("web", "--export", tmp_path / "site")[0] == 0
    plain = functools.partial(Quiet, directory=tmp_path / "site")
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), plain)) as base:
        for here, elsewhere in ((address, base), (base, address)):
            with Page(browser, here) as page:
                assert page.tab.evaluate(SEND, elsewhere) == "refused"
                assert page.tab.workers[0].evaluate(SEND, elsewhere) == "refused"
                assert all("Content Security Policy" in trouble or elsewhere in trouble for trouble in page.trouble)
                page.trouble.clear()


def test_a_worker_that_cannot_go_on_is_said_or_replaced(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)
        page.tab.workers[0].evaluate("() => { styles[0].session.run = () => Promise.reject(new Error('out of memory')); }")
        page.tab.select_option("#size", "256")
        page.message("Painting failed: out of memory")
        page.painted(lambda: page.choose("The Great Wave"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_the_single_file_works_from_the_disk(address, browser, run, photo, frame, tmp_path):
    output = tmp_path / "one.html"
    assert run("web", "--single-file", output)[0] == 0
    code, _, err = run("web", "--single-file", output)
    assert code == 1
    assert "--overwrite" in err
    assert run("web", "--single-file", tmp_path / "one.txt")[0] == 1
    expected = StyleSession(find_style(f"{FIRST.full_name}.int8")).stylize(frame)
    with Page(browser, output.as_uri(), path="") as page:
        assert page.tab.evaluate(EXAMPLE) == [902, True]
        page.tab.select_option("#size", "4096")
        assert np.abs(page.open(photo) - expected).mean() <= 1.5
        assert page.tab.evaluate(SEND, address) == "refused"
        assert page.tab.workers[0].evaluate(SEND, address) == "refused"
        page.trouble.clear()


def test_a_missing_runtime_is_said_with_the_line_that_installs_it(run, monkeypatch, tmp_path):
    monkeypatch.setattr(web, "RUNTIME", tmp_path)
    code, _, err = run("web", "--port", "0")
    assert code == 1
    assert f"install them with: npm ci --prefix {web.PAGE}" in err


def test_the_lock_file_pins_onnx_runtime_and_names_no_address():
    lock = (web.PAGE / "package-lock.json").read_text()
    assert '"node_modules/onnxruntime-web"' in lock
    assert "http" not in lock
    assert '"integrity"' in lock


@pytest.mark.slow
def test_webgpu_paints_the_same(address, tmp_path, frame):
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    Image.fromarray(frame[:64, :64]).save(tmp_path / "small.png")
    flags = ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        with Page(browser, address, path="") as page:
            if page.tab.inner_text("#backend") != "WebGPU":
                pytest.skip(page.tab.inner_text("#backend"))
            exact(page)
            page.choose("The Great Wave")
            expected = StyleSession(find_style("great_wave/realtime")).stylize(np.ascontiguousarray(frame[:64, :64]))
            assert np.abs(page.open(tmp_path / "small.png") - expected).max() <= 2
        browser.close()
