"""What a user gets: the wheel, installed without a checkout, and run in a folder whose files have the same names as ours."""

import os
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from allaprima.inference.page import web

ROOT = Path(__file__).resolve().parents[1]
HAS_PAGE = web.FILMS.is_file()

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not HAS_PAGE and not shutil.which("npm"), reason="the wheel needs npm"),
    pytest.mark.skipif(os.name == "nt", reason="a wheel is built by a shell script"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([ROOT / ".ci" / "wheel", folder], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def call(wheel, tmp_path_factory):
    """Runs a program in a new environment that has the wheel and, from this environment, the packages that it needs."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": environment, "platbase": environment}))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files there, such as our own, are ignored
    folder = tmp_path_factory.mktemp("project")
    for name in ("models", "inference", "checkpoints"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('somebody else's')")
    (folder / "training.py").write_text("raise ImportError('somebody else's')")

    def run(*arguments: object) -> str:
        command = [environment / "bin" / "python", *map(str, arguments)]
        more = {"PYTHONPATH": str(folder), "ALLAPRIMA_VGG19": ""}
        done = subprocess.run(command, cwd=folder, env=os.environ | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_one_package_and_no_pictures_of_the_docs(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"allaprima"}
    assert not [name for name in names if "/pictures/" in name or "/in_training/" in name]
    assert "allaprima/py.typed" in names


def test_the_installed_package_is_the_one_that_runs(call):
    assert str(ROOT) not in call(
        "-c", "import allaprima.training.config as c, allaprima.models as m; print(c.__file__, m.__file__)"
    )
    assert call("-m", "allaprima", "--version").startswith("allaprima ")


def test_install_instructions_name_the_package(call):
    assert (
        call("-c", "from allaprima.models.errors import install_line; print(install_line('gpu'))")
        == "pip install 'allaprima[gpu]'\n"
    )


def test_photos_are_painted(call, tmp_path, photo):
    call("-m", "allaprima", "demo", photo, "-o", tmp_path / "sheet.png")
    call("-m", "allaprima", "stylize", photo, "-s", "great_wave", "-o", tmp_path / "painting.png")
    assert (tmp_path / "sheet.png").is_file()
    assert (tmp_path / "painting.png").is_file()
    code = "import allaprima, sys; from PIL import Image; print(allaprima.Style('great_wave')(Image.open(sys.argv[1])).size)"
    assert call("-c", code, photo) == "(160, 120)\n"


def test_the_page_is_written_without_node(call, tmp_path):
    call("-m", "allaprima", "web", "--export", tmp_path / "page")
    assert (tmp_path / "page" / "index.html").is_file()
    call("-m", "allaprima", "web", "--single-file", tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 1_000_000


def test_a_style_is_trained(call, tmp_path, painting, photo_folder):
    options = "--steps 10 --size 64 --batch-size 1 --style-size 64 --vgg19 tiny --device cpu --precision fp32 --compile off"
    call("-m", "allaprima", "train", painting, "--photos", photo_folder, "-o", tmp_path / "run", *options.split())
    assert (tmp_path / "run" / "style.onnx").is_file()
