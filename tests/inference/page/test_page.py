"""The page in a real browser: what it paints, and how it is used."""

import functools
import io
import math
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from films import drifting, write_film
from PIL import Image
from tab import CHROMIUM, EXAMPLE, FIRST, LISTED, PIXELS, SET, Page, exact

from allaprima.inference.color import keep_luminance
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.levels import level_sizes, paint_levels
from allaprima.inference.options import StylizeOptions
from allaprima.inference.page import web
from allaprima.inference.painter import paint_photo
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style, shipped_styles


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


def test_auto_limits_the_number_of_pixels_and_not_the_sides(address, browser, tmp_path):
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
        # The kernels of different processors round 8-bit sums differently.
        assert np.abs(painted - expected).mean() <= (1.5 if flavor == "int8" else 0.1)
        assert np.abs(painted - expected).max() <= (24 if flavor == "int8" else 2)


def test_a_file_that_is_not_ours_is_refused_and_the_style_is_kept(address, browser, photo, tmp_path):
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


LARGE = (1240, 1640)  # more than the page paints at once, and not a multiple of any stride


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
        page.message("Saved at 1640")
        assert page.set("keep_color", 0).shape == preview.shape  # the preview works as before
    assert saved.shape == content.shape
    painted = paint_levels(StyleSession(find_style(f"{FIRST.full_name}.int8")), content, FIRST.card["strokes"], 1.0)
    half = 0.5 * painted + 0.5 * keep_luminance(content, painted)
    expected = 0.8 * half + 0.2 * content
    assert np.abs(saved - expected).mean() <= 4
    # Differences between adjacent rows, or columns, must not exceed those of the painting made without tiles.
    for axis in (0, 1):
        steps, true_steps = (np.abs(np.diff(each, axis=axis)).mean(axis=(1 - axis, 2)) for each in (saved, expected))
        assert (steps - true_steps).max() <= (steps - true_steps).mean() + 2


def test_saving_full_size_is_canceled_by_its_button_and_by_another_photo(address, browser, large_photo, photo):
    with Page(browser, address) as page:
        page.open(large_photo)
        page.tab.on("dialog", lambda dialog: dialog.accept())
        for cancel in (lambda: page.tab.click("#full_size"), lambda: page.open(photo)):
            page.tab.click("#full_size")
            page.tab.locator("#full_size", has_text="Cancel").wait_for()
            cancel()
            page.tab.wait_for_selector("#full_size:text-is('Save full size')", state="attached")
        assert page.tab.locator("#full_size").is_hidden()  # it is already shown at full size


@pytest.mark.parametrize("flavor", ["onnx", "frame.onnx", "int8.onnx", "fp16.onnx"])
def test_a_network_given_a_pictures_statistics_paints_it_as_without_them(address, browser, flavor):
    with Page(browser, address) as page:
        # Not the page's first style, so that the card tells when the file is open.
        page.tab.set_input_files("#model", find_style("great_wave/realtime").with_name(f"realtime.{flavor}"))
        page.tab.locator("#card", has_text="The Great Wave").wait_for()
        differences = page.tab.workers[0].evaluate("""async () => {
          const picture = blank(144, 100);
          for (let i = 0; i < picture.pixels.length; i++) picture.pixels[i] = 99 * Math.sin(i / 99) + 130 + (i % 7);
          const [style] = styles, statistics = await statisticsOf(style, [picture], [0, 0]);
          const painted = await paintWhole(style, style.tiling.given, picture, statistics);
          const expected = await paintWhole(style, style.session, picture);
          return Array.from(painted.pixels, (level, i) => level - expected.pixels[i]);
        }""")
        # Statistics that differ in the last bit move some 8-bit values to the next step, which may amount to several levels;
        # int8 itself is about 3 levels off on average.
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


def recorded_sizes(page: Page, button: str, folder) -> list[str]:
    """Clicks a button that saves a film and returns the size of each of its frames."""
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
        page.tab.locator("#pause", has_text="Resume").wait_for()
        page.tab.wait_for_timeout(500)  # for the picture in progress
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


def test_keys_can_be_switched_off_and_the_end_of_painting_is_announced(address, browser, photo):
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
    """The visible elements other than pictures."""
    return page.tab.evaluate(
        """() => [...document.querySelectorAll('body *')]
        .filter((each) => each.checkVisibility() && each.getClientRects().length)
        .filter((each) => each.innerText?.trim() || ['INPUT', 'BUTTON', 'SELECT', 'IMG'].includes(each.tagName))
        .map((each) => each.id || each.tagName)"""
    )


def test_bare_shows_only_the_cameras_picture(address, browser):
    path = "?backend=wasm&bare&style=great_wave&camera=fake&strokes=fine"
    with Page(browser, address, path=path, viewport={"width": 640, "height": 360}) as page:
        page.painted(lambda: None)
        assert page.tab.evaluate("window.history.length") <= 2
        assert visible(page) == []
        assert page.tab.evaluate("document.getElementById('painting').getBoundingClientRect().toJSON()")["width"] == 640
        assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
        assert not page.tab.is_checked("#mirror")
        assert page.tab.evaluate("document.querySelector('#card').textContent").startswith("“The Great Wave")


def test_bare_lists_the_cameras(address, browser):
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


def test_the_style_clicked_last_is_painted_even_if_others_arrive_later(address, browser, photo):
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


def test_the_first_screen_shows_what_it_is_before_anything_can_be_painted(address, browser):
    """And all styles, even if their engine does not load."""
    context = browser.new_context()
    tab = context.new_page()
    tab.route("**/*.wasm.gz", lambda route: None)
    tab.goto(address)
    tab.locator("#choices label").nth(13).wait_for()
    assert tab.evaluate(EXAMPLE) == [902, True]
    assert tab.inner_text("#example") == "Your camera or photo, painted. Nothing leaves this device."
    assert tab.evaluate("document.getElementById('choices').scrollTop + document.getElementById('choices').scrollLeft") == 0
    assert FIRST.card["title"] in tab.inner_text("#choices label:first-child")
    context.close()


def test_the_first_picture_is_a_photo_that_every_control_works_on(address, browser, photo):
    with Page(browser, address) as page:
        assert page.tab.evaluate(EXAMPLE) == [902, False]
        first = page.pixels()
        assert first.shape == (300, 451, 3)
        assert page.tab.get_attribute("#divider", "aria-valuenow") == "50"
        page.tab.focus("#divider")
        page.tab.keyboard.press("ArrowRight")
        page.tab.keyboard.press("ArrowUp")
        page.tab.keyboard.press("ArrowDown")
        assert page.tab.input_value("#compare") == "55"
        assert page.tab.evaluate("[scrollX, scrollY]") == [0, 0]
        box = page.tab.locator("#divider").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.tab.mouse.move(x, y)
        page.tab.mouse.down()
        page.tab.mouse.move(x - 60, y)
        page.tab.mouse.up()
        assert int(page.tab.input_value("#compare")) < 50
        assert not np.array_equal(page.painted(lambda: page.choose("The Scream")), first)
        page.painted(lambda: page.tab.click("#samples button:nth-of-type(2)"))
        assert page.pixels().shape == (512, 512, 3)
        page.tab.evaluate(SET, ["compare", 50])
        assert page.open(photo).shape == (203, 158, 3)
        assert page.tab.input_value("#compare") == "0"  # left in the middle; a user's photo is shown all painted


def test_a_photo_opened_while_the_page_starts_is_not_replaced_by_a_sample(address, browser, photo):
    with Page(browser, address) as page:
        page.tab.reload(wait_until="domcontentloaded")
        page.tab.set_input_files("#file", photo)
        page.ready()
        page.tab.wait_for_selector('#stage[data-state="painted"]')
        assert page.pixels().shape == (203, 158, 3)


def test_a_large_photo_is_shown_at_half_its_size_first_and_fades_into_the_whole(address, browser, tmp_path):
    Image.fromarray(paint_landscape(600, 800)).save(tmp_path / "large.png")
    with Page(browser, address) as page:
        page.tab.evaluate("""() => {
          window.faded = [];
          const animate = Element.prototype.animate;
          Element.prototype.animate = function (...how) { window.faded.push(this.id); return animate.apply(this, how); };
        }""")
        assert page.open(tmp_path / "large.png").shape == (600, 800, 3)
        assert page.tab.get_attribute("#stage", "data-quick") == "1"
        assert page.tab.evaluate("window.faded") == ["fading"]
        # What is half its size cannot be taken for the painting.
        page.tab.evaluate("""() => {
          window.savable = [];
          new MutationObserver(() => window.savable.push(!document.getElementById('snapshot').disabled))
            .observe(document.getElementById('stage'), { attributeFilter: ['data-quick'] });
        }""")
        page.painted(lambda: page.choose("The Scream"))
        assert page.tab.evaluate("window.savable") == [False]
        assert page.tab.is_enabled("#snapshot")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_list_of_styles_fades_where_it_goes_on(address, browser, width, height):
    with Page(browser, address, viewport={"width": width, "height": height}) as page:
        page.tab.locator("#choices.more_after:not(.more_before)").wait_for()
        page.tab.evaluate("document.getElementById('choices').scrollTo(1e5, 1e5)")
        page.tab.locator("#choices.more_before:not(.more_after)").wait_for()


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1400, 900)])
def test_a_message_appears_beside_what_was_pressed_moves_nothing_and_goes(address, browser, photo, width, height):
    granted, viewport = ("clipboard-read", "clipboard-write"), {"width": width, "height": height}
    with Page(browser, address, permissions=granted, viewport=viewport) as page:
        page.open(photo)
        page.tab.locator("#copy_link").scroll_into_view_if_needed()
        before = page.tab.locator("#copy_link").bounding_box()
        page.tab.click("#copy_link")
        page.message("The link is copied")
        assert page.tab.locator("#copy_link").bounding_box() == before
        box = page.tab.locator("#message").bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= width
        assert 0 <= box["y"] <= box["y"] + box["height"] <= height
        assert min(abs(box["y"] + box["height"] - before["y"]), abs(box["y"] - before["y"] - before["height"])) < 20
        page.tab.locator("#message:empty").wait_for(state="attached")


def test_of_many_choices_the_last_one_alone_is_opened_and_painted(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)
        before = int(page.tab.get_attribute("#stage", "data-painted"))
        page.tab.evaluate("""() => {
          const asked = window.asked = [], send = Worker.prototype.postMessage;
          Worker.prototype.postMessage = function (message, transfer) {
            asked.push(message.task);
            return send.call(this, message, transfer);
          };
          for (const i of [3, 5, 7, 9]) document.querySelectorAll("#choices input")[i].click();
        }""")
        last = page.tab.evaluate("document.querySelectorAll('#choices label')[9].innerText").strip()
        page.tab.locator("#done", has_text=last).wait_for()
        page.tab.wait_for_timeout(300)
        asked = page.tab.evaluate("asked")
        assert asked.count("open") <= 2  # the first may already have begun
        assert asked.count("paint") == 1
        assert int(page.tab.get_attribute("#stage", "data-painted")) == before + 1


def test_the_examples_right_half_is_what_the_shipped_style_paints():
    data = pytest.importorskip("skimage.data")
    content = np.asarray(Image.fromarray(data.chelsea()).resize((902, 600), Image.Resampling.LANCZOS))
    example = np.asarray(Image.open(web.PAGE / "example.jpg")).astype(int)
    painted = paint_photo(StyleSession(find_style("starry_night/realtime")), content, StylizeOptions())
    whole = np.hstack([content[:, :451], painted[:, 451:]])
    assert np.abs(example - whole).mean() <= 6  # the example is a JPEG


SLIDERS = "() => ['strength', 'keep_color', 'strokes'].map((id) => Number(document.getElementById(id).value))"


@pytest.mark.parametrize(
    ("fragment", "sliders", "title"),
    [
        ("style=the_scream&strength=80&colors=30&strokes=0.5", [80, 30, -1], "The Scream"),
        ("strokes=fine", [100, 0, -2.25], FIRST.card["title"]),
        ("strength=999&colors=-5&strokes=-1", [100, 0, math.log2(FIRST.card["strokes"])], FIRST.card["title"]),
        ("strength=&colors=x&strokes=0", [100, 0, math.log2(FIRST.card["strokes"])], FIRST.card["title"]),
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
        page.tab.wait_for_url("**/?backend=wasm#style=the_scream&strength=100&colors=0")
        assert page.tab.inner_text("#strokes + output").split()[0] == "1"  # the style's default
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
        change = SET.replace("'input'", "'change'")
        page.tab.evaluate(change, ["second", "sunflowers"])
        page.tab.wait_for_url("**&strokes=2&second=sunflowers&mix=50")
        page.tab.evaluate(change, ["mix", 20])
        page.tab.wait_for_url("**&second=sunflowers&mix=20")
        page.tab.reload()
        page.ready()
        assert page.tab.input_value("#second") == "sunflowers"
        assert page.tab.input_value("#mix") == "20"
        assert page.tab.is_enabled("#mix")
        page.tab.evaluate("location.hash = 'style=great_wave'")
        page.tab.wait_for_function("() => !document.getElementById('second').value")
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
        while not held:
            page.tab.wait_for_timeout(50)
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


def test_a_photo_chosen_while_waiting_for_the_camera_stays(address, browser, photo):
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


def test_failing_to_change_the_camera_leaves_the_page_usable(address, browser):
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


def test_what_is_missing_is_reported(address, browser):
    with Page(browser, address, permissions=(), path="?backend=auto") as page:
        page.tab.click("#camera")
        page.message("permission was denied")
        assert page.tab.inner_text("#why").startswith("WebGPU: n")  # "not in this browser", "no GPU that ..."
        assert page.tab.get_attribute("#stage", "data-state") == "painted"  # the sample is still there


def test_the_page_is_used_by_keyboard_alone(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)
        names = []
        for _ in range(20):
            page.tab.keyboard.press("Tab")
            names.append(page.tab.evaluate("document.activeElement.id || document.activeElement.name"))
        controls = ["snapshot", "fullscreen", "camera", "file", "style", "model", "strength", "keep_color", "strokes"]
        assert [n for n in names if n][:9] == controls
        page.tab.focus("#choices input:checked")
        page.painted(lambda: page.tab.keyboard.press("ArrowRight"))
        second = LISTED[1].card["title"]
        page.tab.locator("#card", has_text=f"“{second}”").wait_for()
        page.tab.focus("#strength")
        assert page.painted(lambda: page.tab.keyboard.press("ArrowLeft")) is not None
        assert page.tab.inner_text("#strength + output") == "99 %"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_every_style_is_reached_by_scrolling_the_list_and_not_the_page(address, browser, width, height):
    with Page(
        browser, address, path=f"?backend=wasm#style={LISTED[-1].name}", viewport={"width": width, "height": height}
    ) as page:
        choices, label = (page.tab.locator(name).bounding_box() for name in ("#choices", "#choices label:has(input:checked)"))
        assert choices["x"] <= label["x"] <= choices["x"] + choices["width"] - label["width"]
        assert choices["y"] <= label["y"] <= choices["y"] + choices["height"] - label["height"]
        assert label["height"] >= 44  # large enough for a thumb
        assert page.tab.evaluate("[scrollX, scrollY]") == [0, 0]
        page.tab.focus("#choices input:checked")
        page.tab.keyboard.press("ArrowRight")  # around to the first one
        page.tab.wait_for_url(f"**#style={LISTED[0].name}&*")
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


def test_a_worker_that_fails_is_reported_or_replaced(address, browser, photo):
    with Page(browser, address) as page:
        page.open(photo)
        page.tab.workers[0].evaluate("() => { styles[0].session.run = () => Promise.reject(new Error('out of memory')); }")
        page.tab.select_option("#size", "256")
        page.message("Painting failed: out of memory")
        page.painted(lambda: page.choose("The Great Wave"))


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
