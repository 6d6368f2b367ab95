"""Fixtures of the page's tests, and which of the tests are run every time."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tab import CHROMIUM, FLAGS, serving

from allaprima.inference.page import web
from allaprima.inference.pictures import read_picture
from allaprima.models.errors import WebError

BRIEF = {
    "test_sliders_blend_and_keep_colors_as_python_does",
    "test_levels_have_the_sizes_that_python_gives_them",
    "test_tiles_agree_to_the_bit",
    "test_the_first_screen_shows_what_it_is_before_anything_can_be_painted",
    "test_the_first_picture_is_a_photo_that_every_control_works_on",
    "test_a_message_appears_beside_what_was_pressed_moves_nothing_and_goes",
    "test_of_many_choices_the_last_one_alone_is_opened_and_painted",
    "test_the_camera_is_painted_live_paused_recorded_and_stopped",
    "test_the_address_is_kept_and_restored",
    "test_the_page_is_used_by_keyboard_alone",
    "test_neither_page_nor_worker_can_send_a_picture_anywhere",
    "test_the_single_file_works_from_the_disk",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Each test in a browser takes seconds; all but a few are thorough."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "browser" in item.fixturenames and item.originalname not in BRIEF:
            item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="module")
def address():
    """The page, served."""
    try:
        web.check_packages()
    except WebError as error:
        pytest.skip(str(error))
    with serving(web.make_server(0)) as base:
        yield base


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        yield browser


@pytest.fixture(scope="module")
def frame():
    """A real photo, of a size that every network needs padded."""
    return np.ascontiguousarray(
        read_picture(web.PAGE.parents[1] / "inference/reference_photos/astronaut.jpg").frame[:203, :158]
    )


@pytest.fixture
def photo(tmp_path, frame):
    Image.fromarray(frame).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
