"""The page in headless Firefox, as far as that can be automated: one run through everything."""

import base64
import io
import json
import shutil
import subprocess

import av
import numpy as np
import pytest
from films import drifting, write_film
from PIL import Image
from toolbox import node_folder, why_no_node

from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
FRAMES = 12


@pytest.mark.thorough
def test_firefox_paints_saves_and_films(address, tmp_path, photo, frame):
    if not FIREFOX:
        pytest.skip("needs Firefox: apt-get install firefox-esr")
    if why := why_no_node("puppeteer-core"):
        pytest.skip(why)
    film = write_film(tmp_path / "film.mp4", drifting(FRAMES), sounds=1)
    (tmp_path / "node").mkdir()
    line = ["node", "firefox.mjs", FIREFOX, address, photo, film]
    run = subprocess.run(line, cwd=node_folder(tmp_path / "node"), capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert not found["trouble"]
    assert found["isolated"]
    assert found["backend"].startswith("CPU, ")  # there is no GPU here
    assert (found["said"], found["checked"]) == ("The whole video is saved.", "")
    contents = {kind: base64.b64decode(found[kind][1]) for kind in ("picture", "film", "recording")}
    picture = np.asarray(Image.open(io.BytesIO(contents["picture"])).convert("RGB")).astype(int)
    assert np.abs(picture - StyleSession(find_style("great_wave/realtime")).stylize(frame)).max() <= 2
    with av.open(io.BytesIO(contents["film"])) as container:
        assert len(container.streams.audio) == 1
        assert len(list(container.decode(video=0))) == FRAMES
    with av.open(io.BytesIO(contents["recording"])) as container:
        assert len(list(container.decode(video=0))) >= 3
