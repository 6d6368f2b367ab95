"""What the page saves: pictures, recordings, whole videos; and how files are opened."""

import io

import av
import numpy as np
import pytest
from films import drifting, write_film
from PIL import Image
from tab import SET, Page, exact

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style

FPS, FRAMES = 10, 20
TWICE = "() => { const button = document.getElementById('record'); button.click(); button.click(); }"
LEAVE = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"  # true if the browser would not ask


@pytest.fixture(scope="module")
def film_with_sound(tmp_path_factory):
    """Lasts two seconds."""
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", drifting(FRAMES), rate=FPS, sounds=1)


def heard_and_seen(film: bytes) -> tuple[float, list[np.ndarray]]:
    """The loudest sample of a film, and its frames."""
    with av.open(io.BytesIO(film)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(film)) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)] if container.streams.audio else []
    return max((float(np.abs(part).max()) for part in sound), default=0.0), frames


def saved_by(page: Page, act) -> bytes:
    with page.tab.expect_download() as download:
        act()
    return download.value.path().read_bytes()


def test_a_whole_video_is_painted_from_first_to_last_with_its_sound(address, browser, film_with_sound):
    with Page(browser, address) as page:
        page.choose("The Great Wave")
        exact(page)
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        film = saved_by(page, lambda: page.tab.click("#film"))
        page.message("The whole video is saved.")
        assert page.tab.inner_text("#film") == "Save whole video"
        assert page.tab.locator("#loading").is_hidden()
    loudest, frames = heard_and_seen(film)
    assert loudest > 0.1
    assert len(frames) == FRAMES
    with av.open(film_with_sound) as container:
        contents = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    session = StyleSession(find_style("great_wave/realtime"))
    for content, frame in zip(contents[::6], frames[::6], strict=True):
        assert np.abs(session.stylize(content).astype(int) - frame).mean() < 12  # lossy: H.264 or VP9


def test_a_whole_video_is_canceled_by_its_button_and_by_a_photo(address, browser, film_with_sound, photo):
    with Page(browser, address) as page:
        page.tab.on("dialog", lambda dialog: dialog.accept())
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        for cancel in (lambda: page.tab.click("#film"), lambda: page.open(photo)):
            assert page.tab.evaluate(LEAVE)
            page.tab.click("#film")
            page.tab.locator("#film", has_text="Cancel").wait_for()
            assert not page.tab.evaluate(LEAVE)  # the browser would ask first
            cancel()
            page.tab.wait_for_selector("#film:text-is('Save whole video')", state="attached")
        assert page.tab.locator("#film").is_hidden()


def test_a_recording_keeps_the_videos_sound_and_the_browser_asks_before_leaving(address, browser, film_with_sound):
    with Page(browser, address) as page:
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        page.tab.click("#record")
        page.tab.locator("#record", has_text="Stop").wait_for()
        page.tab.wait_for_timeout(1500)
        assert not page.tab.evaluate(LEAVE)
        film = saved_by(page, lambda: page.tab.click("#record"))
        assert page.tab.evaluate(LEAVE)
    loudest, frames = heard_and_seen(film)
    assert loudest > 0.1
    assert len(frames) >= 3


def test_a_recording_of_the_camera_has_the_microphones_sound_if_allowed(address, browser):
    with Page(browser, address, permissions=("camera", "microphone")) as page:
        page.painted(lambda: page.tab.click("#camera"))
        for wanted in (False, True):
            page.tab.set_checked("#microphone", wanted)
            page.tab.click("#record")
            page.tab.locator("#record", has_text="Stop").wait_for()
            page.tab.wait_for_timeout(1500)
            assert (heard_and_seen(saved_by(page, lambda: page.tab.click("#record")))[0] > 0.01) == wanted


@pytest.mark.parametrize(("kind", "ending"), [("image/jpeg", ".jpg"), ("image/png", ".png")])
def test_before_and_after_are_saved_side_by_side(address, browser, photo, frame, kind, ending):
    height, width = frame.shape[:2]
    with Page(browser, address) as page:
        painted = page.open(photo)
        page.tab.select_option("#format", kind)
        page.tab.check("#beside")
        with page.tab.expect_download() as download:
            page.tab.click("#snapshot")
        assert download.value.suggested_filename.endswith(ending)
        saved = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    assert saved.shape == (height, 2 * width, 3)
    assert np.abs(saved[:, :width] - frame).mean() < 4
    assert np.abs(saved[:, width:] - painted).mean() < 6


def test_full_size_is_saved_in_the_chosen_format_and_with_the_photo_beside_it(address, browser, tmp_path):
    content = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8).repeat(40, 0).repeat(40, 1)
    Image.fromarray(content).save(tmp_path / "photo.png")
    with Page(browser, address) as page:
        page.open(tmp_path / "photo.png")
        page.tab.select_option("#format", "image/png")
        page.tab.check("#beside")
        saved = np.asarray(Image.open(io.BytesIO(saved_by(page, lambda: page.tab.click("#full_size")))).convert("RGB"))
    assert saved.shape == (1200, 3200, 3)
    np.testing.assert_array_equal(saved[:, :1600], content)


def test_a_picture_is_shared_as_a_file_or_else_as_a_link(address, browser, photo):
    script = """
      window.shared = [];
      navigator.canShare = ({ files }) => window.files && files.every(({ type }) => type === 'image/jpeg');
      navigator.share = async ({ files, url, title }) => { shared.push([files?.[0].name, files?.[0].size, url, title]); };
    """
    with Page(browser, address) as page:
        assert page.tab.locator("#share_picture").is_hidden()  # this browser cannot share
        page.context.add_init_script(script)
        page.tab.reload()
        page.ready()
        page.open(photo)
        page.tab.evaluate("window.files = true")
        page.tab.click("#share_picture")
        page.tab.wait_for_function("() => shared.length === 1")
        page.tab.evaluate("window.files = false")
        page.tab.click("#share_picture")
        page.tab.wait_for_function("() => shared.length === 2")
        (name, size, _, title), (nothing, _, url, _) = page.tab.evaluate("shared")
        assert name.endswith(".jpg")
        assert size > 1000
        assert title == "Painted as The Starry Night"
        assert (nothing, url) == (None, page.tab.url)
        page.tab.evaluate("() => { navigator.share = async () => { throw new DOMException('no app', 'DataError'); }; }")
        page.tab.click("#share_picture")
        page.message("It cannot be shared: no app")


def test_photos_can_be_browsed_and_pasted(address, browser, tmp_path, photo):
    paths = []
    for width in (40, 50, 60):
        paths.append(tmp_path / f"{width}.png")
        Image.fromarray(np.full((30, width, 3), width, np.uint8)).save(paths[-1])
    with Page(browser, address) as page:
        assert page.painted(lambda: page.tab.set_input_files("#file", paths)).shape[1] == 40
        assert page.tab.inner_text("#which") == "Photo 1 of 3"
        assert page.painted(lambda: page.tab.click("#later")).shape[1] == 50
        assert page.painted(lambda: page.tab.click("#earlier")).shape[1] == 40
        assert page.painted(lambda: page.tab.click("#earlier")).shape[1] == 60
        paste = """() => {
          const data = new DataTransfer(), canvas = new OffscreenCanvas(70, 30);
          canvas.getContext('2d').fillRect(0, 0, 70, 30);
          canvas.convertToBlob().then((blob) => {
            data.items.add(new File([blob], 'pasted.png', { type: 'image/png' }));
            dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }));
          });
        }"""
        assert page.painted(lambda: page.tab.evaluate(paste)).shape[1] == 70
        assert page.tab.locator("#turning").is_hidden()


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "photo.jpg"])
def test_a_heic_photo_is_refused_with_how_to_make_it_a_jpeg(address, browser, tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(200))
    with Page(browser, address) as page:
        page.tab.set_input_files("#file", tmp_path / name)
        page.message(f"{name} is a HEIC photo, which this browser cannot open. Get a JPEG")


def test_a_video_that_cannot_be_demuxed_is_reported(address, browser, tmp_path, film_with_sound):
    with Page(browser, address) as page:
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        page.tab.evaluate("globalThis.VideoDecoder = undefined")
        page.tab.click("#film")
        page.message("This browser cannot read the video picture by picture; record it instead")
        page.painted(lambda: None)  # the page still works


def test_two_styles_are_mixed(address, browser, photo, frame):
    wave, scream = (
        StyleSession(find_style(f"{name}/realtime")).stylize(frame).astype(int) for name in ("great_wave", "the_scream")
    )
    with Page(browser, address) as page:
        exact(page)
        page.choose("The Great Wave")
        page.open(photo)
        both = page.painted(lambda: page.tab.select_option("#second", "the_scream"))
        assert np.abs(both - 0.5 * wave - 0.5 * scream).max() <= 2
        assert np.abs(page.set("mix", 20) - 0.8 * wave - 0.2 * scream).max() <= 2
        assert np.abs(page.painted(lambda: page.tab.select_option("#second", "")) - wave).max() <= 2
        assert page.tab.is_disabled("#mix")


def test_the_picture_fills_the_screen_and_keeps_its_buttons(address, browser, photo):
    with Page(browser, address, viewport={"width": 800, "height": 600}) as page:
        page.open(photo)
        page.tab.keyboard.press("f")
        page.tab.wait_for_function("() => document.fullscreenElement?.id === 'picture'")
        page.tab.wait_for_timeout(300)
        box, button = (page.tab.locator(name).bounding_box() for name in ("#stage", "#snapshot"))
        assert box["height"] > 400
        assert button["y"] + button["height"] <= page.tab.evaluate("innerHeight")
        page.tab.click("#fullscreen")
        page.tab.wait_for_function("() => !document.fullscreenElement")


def test_sliders_are_the_same_for_the_whole_video(address, browser, tmp_path):
    """With strength 0, the video is unchanged."""
    path = write_film(tmp_path / "film.mp4", drifting(6))
    with Page(browser, address) as page:
        page.tab.evaluate(SET, ["strength", 0])
        page.painted(lambda: page.tab.set_input_files("#file", path))
        _, frames = heard_and_seen(saved_by(page, lambda: page.tab.click("#film")))
        with av.open(path) as container:
            contents = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == len(contents) == 6
    assert max(np.abs(a - b).mean() for a, b in zip(contents, frames, strict=True)) < 10  # the file is strongly compressed


def test_pressing_record_twice_changes_nothing_and_a_quick_new_recording_has_sound(address, browser, film_with_sound):
    with Page(browser, address) as page:
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        page.tab.evaluate(TWICE)
        page.tab.locator("#record", has_text="Stop").wait_for()
        page.tab.wait_for_timeout(1500)
        first = saved_by(page, lambda: page.tab.evaluate(TWICE))  # stops, then begins again
        page.tab.locator("#record", has_text="Stop").wait_for()
        page.tab.wait_for_timeout(1500)
        second = saved_by(page, lambda: page.tab.click("#record"))
        assert page.tab.evaluate("now.source.element.muted")
    assert heard_and_seen(first)[0] > 0.1
    assert heard_and_seen(second)[0] > 0.1


def test_no_microphone_stays_open(address, browser, photo):
    with Page(browser, address, permissions=("camera", "microphone")) as page:
        page.tab.evaluate("""() => {
          window.opened = [];
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (how) => {
            if (how.audio) await new Promise((done) => setTimeout(done, 800));
            const stream = await open(how);
            window.opened.push(...stream.getAudioTracks());
            return stream;
          };
        }""")
        page.painted(lambda: page.tab.click("#camera"))
        page.tab.check("#microphone")
        page.tab.click("#record")
        page.open(photo)
        page.tab.wait_for_function("() => opened.length === 1 && opened[0].readyState === 'ended'")


def test_the_second_style_is_that_of_the_list_and_only_for_photos(address, browser, photo, frame, film_with_sound):
    sessions = (StyleSession(find_style(name)) for name in ("great_wave/realtime", "the_scream/realtime"))
    wave, scream = (session.stylize(frame).astype(int) for session in sessions)
    with Page(browser, address) as page:
        exact(page)
        page.choose("The Great Wave")
        page.open(photo)
        held = []
        page.tab.route("**/the_scream/*.onnx", lambda route: held.append(route))
        page.tab.select_option("#second", "the_scream")
        while not held:
            page.tab.wait_for_timeout(20)
        page.tab.select_option("#second", "")
        held[0].continue_()
        page.tab.unroute("**/the_scream/*.onnx")
        page.tab.wait_for_timeout(500)
        assert np.abs(page.set("strength", 100) - wave).max() <= 2
        both = page.painted(lambda: page.tab.select_option("#second", "the_scream"))
        assert np.abs(both - 0.5 * wave - 0.5 * scream).max() <= 2
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        assert page.tab.workers[0].evaluate("last.paintings.length") == 1


def test_a_whole_video_keeps_its_look_and_a_style_waits_for_it(address, browser, film_with_sound):
    with Page(browser, address) as page:
        page.tab.evaluate(SET, ["strength", 0])
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))

        def act():
            page.tab.click("#film")
            page.tab.locator("#speed", has_text="Whole video").wait_for()
            page.tab.evaluate(SET, ["strength", 100])
            page.tab.locator("#choices label", has_text="The Scream").click()
            page.message("That style is next, when what is being saved is done.")

        _, frames = heard_and_seen(saved_by(page, act))
        page.tab.locator("#card", has_text="The Scream").wait_for()
    with av.open(film_with_sound) as container:
        contents = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == FRAMES
    assert max(np.abs(a - b).mean() for a, b in zip(contents, frames, strict=True)) < 15


def test_pause_lasts_through_saving_a_whole_video(address, browser, film_with_sound):
    with Page(browser, address) as page:
        page.painted(lambda: page.tab.set_input_files("#file", film_with_sound))
        page.tab.click("#pause")
        page.tab.wait_for_timeout(300)
        still = page.pixels()
        saved_by(page, lambda: page.tab.click("#film"))
        page.message("The whole video is saved.")
        page.tab.wait_for_timeout(500)
        assert np.abs(page.pixels() - still).mean() < 1
        assert page.tab.evaluate("now.source.element.paused")


def test_a_photo_that_cannot_be_opened_is_left_out_of_several(address, browser, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    paths = [tmp_path / "bad.jpg"]
    for width in (40, 50):
        paths.append(tmp_path / f"{width}.png")
        Image.fromarray(np.full((30, width, 3), width, np.uint8)).save(paths[-1])
    with Page(browser, address) as page:
        assert page.painted(lambda: page.tab.set_input_files("#file", paths)).shape[1] == 40
        page.message("bad.jpg is not a photo")
        assert page.tab.inner_text("#which") == "Photo 1 of 2"
        page.tab.set_input_files("#file", paths[0])
        page.message("bad.jpg is not a photo")
        assert page.painted(lambda: page.tab.click("#later")).shape[1] == 50


def test_sound_alone_is_not_a_video(address, browser, tmp_path):
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for i in range(40):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 48000, 1024 * i
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with Page(browser, address) as page:
        page.tab.set_input_files("#file", tmp_path / "sound.mp4")
        page.message("sound.mp4 is not a video that this browser can play")


def test_a_file_opened_while_something_is_saved_asks_first(address, browser, photo, tmp_path):
    Image.fromarray(paint_landscape(2000, 3000)).save(tmp_path / "large.png")
    with Page(browser, address) as page:
        page.open(tmp_path / "large.png")
        answers, asked = ["dismiss", "dismiss", "accept"], []

        def answer(dialog):
            asked.append(dialog.message)
            getattr(dialog, answers.pop(0))()

        page.tab.on("dialog", answer)
        page.tab.click("#full_size")
        page.tab.locator("#full_size", has_text="Cancel").wait_for()
        page.tab.set_input_files("#file", photo)
        page.tab.click("#samples button:nth-of-type(2)")
        assert page.tab.inner_text("#full_size") == "Cancel"
        page.tab.set_input_files("#file", photo)
        page.message("What was being saved was not finished")
        page.tab.wait_for_selector('#stage[data-state="painted"]')
        assert page.pixels().shape == (203, 158, 3)
        assert [each.startswith("Something is still being saved") for each in asked] == [True, True, True]
