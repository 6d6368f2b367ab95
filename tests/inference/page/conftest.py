"""Which tests of the page are run every time."""

from pathlib import Path

import pytest

BRIEF = {
    "test_sliders_blend_and_keep_colors_as_python_does",
    "test_levels_have_the_sizes_that_python_gives_them",
    "test_tiles_agree_to_the_bit",
    "test_the_first_screen_shows_what_it_is",
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
