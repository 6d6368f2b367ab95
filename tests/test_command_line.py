import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style import styles as styles_module

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("demo", "stylize", "video", "webcam", "train", "sweep", "export", "import", "styles", "doctor")
COMMANDS += ("optimize", "reconstruct", "evaluate", "bench", "info", "web")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_a_summary_and_one_example(command, capsys):
    from allaprima.command_line import main

    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"example:\n  allaprima {command}" in text
    assert len(text) > 200


def test_the_main_help_names_every_command(capsys):
    from allaprima.command_line import main

    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_info_says_how_to_call_each_flavor(run):
    _, image, _ = run("info", "great_wave/realtime")
    assert "input     content_image: float32 [batch, 3, height, width] (NCHW)" in image
    assert "height and width multiples of 4, at least 16" in image
    assert "optional" not in image
    _, frame, _ = run("info", "great_wave/realtime.frame")
    assert "content_frame: uint8 [batch, height, width, 3] (NHWC)" in frame
    assert "keep_color: float32 scalar, 0 if not fed" in frame
    for text in (image, frame):
        for part in (
            "Katsushika Hokusai, 1831",
            "public domain",
            "style_weight=5.0",
            "losses",
            "from torch on 16 photos",
            "made by   allaprima 0",
        ):
            assert part in text
    assert "engine    ONNX Runtime\n" in image
    code, _, err = run("info", "great_wave/realtime.int4")
    assert code == 1
    assert "great_wave" in err


def test_info_handles_a_nonsense_card(run, tmp_path):
    import dataclasses

    import onnx

    from allaprima.inference.style.onnx_file import read_style
    from allaprima.training.export.export import serialized

    path = styles_module.find_style("great_wave/realtime")
    for card, report in (({"options": 3}, {}), ({"photos_seen": "many"}, {}), ({}, {"psnr_db": "good"})):
        contract = dataclasses.replace(read_style(path)[1], card=card, report=report)
        (tmp_path / "x.onnx").write_bytes(serialized(onnx.load(path), contract))
        code, _, err = run("info", tmp_path / "x.onnx")
        assert code == 1
        assert "has a damaged card" in err
    contract = dataclasses.replace(read_style(path)[1], card={"title": "\x1b[2Jgone"})
    (tmp_path / "x.onnx").write_bytes(serialized(onnx.load(path), contract))
    _, out, _ = run("info", tmp_path / "x.onnx")
    assert "?[2Jgone" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("README.md", "is not an .onnx file"),
        ("checkpoints/great_wave/realtime.safetensors", "is a checkpoint; make a style of it first: allaprima export"),
        ("great_wave/realtime.int9", 'did you mean "great_wave/realtime.int8"'),
    ],
)
def test_what_is_not_a_style_is_explained(run, name, message):
    code, _, err = run("info", ROOT / name if (ROOT / name).exists() else name)
    assert code == 1
    assert message in err


def modules_after(statement: str) -> set[str]:
    """The modules that a new Python process has imported after a statement."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def files_of(package: str) -> list[str]:
    paths = [path for path in (ROOT / package).rglob("*.py") if path.stem != "__init__" and "node_modules" not in path.parts]
    return [".".join(["allaprima", *path.relative_to(ROOT).with_suffix("").parts]) for path in paths]


def test_inference_imports_neither_torch_nor_training():
    modules = modules_after("import " + ", ".join(files_of("inference")))
    assert not {"torch", "allaprima.training", "safetensors", "datasets"} & modules
    assert {m for m in modules if m.startswith("allaprima.models.")} == {
        f"allaprima.models.{name}"
        for name in ("contract", "errors", "frame_graph", "frame_model", "levels_graph", "memory", "options")
    }


def test_models_import_nothing_else_of_ours():
    modules = modules_after("import " + ", ".join(files_of("models")))
    ours = {m for m in modules if m.startswith("allaprima.") and not m.startswith("allaprima.models")}
    assert ours == {"allaprima.inference", "allaprima.inference.options"}  # from `import allaprima` itself


def test_the_command_line_starts_without_numpy_opencv_or_torch():
    modules = modules_after("from allaprima.command_line import build_parser; build_parser()")
    assert not {"numpy", "cv2", "onnxruntime", "torch", "rich", "PIL"} & modules


def test_datasets_is_not_imported_for_a_photo_folder():
    assert "datasets" not in modules_after("import allaprima.training.loop")


@pytest.mark.thorough
def test_demo_paints_every_shipped_style_on_one_sheet(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("demo")
    assert code == 0
    for style in styles_module.shipped_styles():
        assert style.full_name in out
    assert out.count(" ms a picture") == len(styles_module.shipped_styles())
    with Image.open(tmp_path / "allaprima_demo.png") as sheet:
        assert 5 * 320 < sheet.width < 6 * 320
        rows = math.ceil((1 + len(styles_module.shipped_styles())) / 5)
        assert 2 * rows * 240 < sheet.height < 2 * rows * 320
    assert str(tmp_path / "allaprima_demo.png") in out


def test_demo_takes_a_photo_and_keeps_an_existing_file(run, photo, tmp_path):
    (tmp_path / "sheet.png").write_text("precious")
    code, _, err = run("demo", photo, "-o", tmp_path / "sheet.png")
    assert code == 1
    assert "--overwrite" in err
    assert (tmp_path / "sheet.png").read_text() == "precious"


def test_shipped_styles_have_complete_cards_and_take_at_most_50_mb_together():
    styles = styles_module.shipped_styles()
    names = {style.full_name for style in styles}
    assert {"great_wave/realtime", "great_wave/quality", "starry_night/realtime"} <= names
    for style in styles:
        card = style.card
        assert all(card[key] for key in ("title", "painter", "year", "license", "tier", "photos_seen", "device"))
        assert card["tier"] == style.tier
        assert "256" in card["heldout"]
        assert set(card["judged"]) == {"256", "512"}
        if style.tier == "realtime":
            assert set(style.flavors) == {"frame", "int8", "fp16"}
    assert sum(path.stat().st_size for path in styles_module.FOLDER.rglob("*")) < 50 * 2**20


@pytest.mark.thorough
def test_shipped_files_still_match_the_shipped_weights():
    from allaprima.inference.pictures import read_picture
    from allaprima.inference.style.engines import REFERENCE_PHOTOS
    from allaprima.inference.style.session import StyleSession
    from allaprima.training.checkpoint import load_net
    from allaprima.training.config import Flavor
    from allaprima.training.export.export import compare, too_bad
    from allaprima.training.gallery.ship import FLAVORS, QUALITY_START

    photos = [read_picture(path).frame[:128, :128] for path in REFERENCE_PHOTOS.glob("*.jpg")]
    for style in styles_module.shipped_styles():
        weights = style.path.with_suffix(".safetensors")
        if not weights.is_file():
            assert style.tier == "quality"
            assert style.name != QUALITY_START
            continue
        net, card = load_net(weights)
        for path in [style.path, *(style.path.with_name(f"{style.tier}.{flavor}.onnx") for flavor in style.flavors)]:
            session = StyleSession(path)
            contract = session.contract
            assert contract.card == card
            assert FLAVORS[style.tier][path.stem.removeprefix(style.tier)] == Flavor(contract.io, contract.precision)
            assert contract.thumbnail
            assert contract.report["photos"] >= 16
            found = compare(net, session, photos)
            assert not too_bad(found, Flavor(contract.io, contract.precision)), path


def test_shipped_styles_paint_the_landscape_without_losing_it():
    """A painting differs from the photo, is not gray, and still resembles the photo."""
    import numpy as np

    from allaprima.inference.style.session import StyleSession

    frame = paint_landscape(240, 320)
    for style in styles_module.shipped_styles():
        painted = StyleSession(style.path).stylize(frame)
        assert painted.std() > 25
        assert np.abs(painted.astype(int) - frame).mean() > 10
        assert np.corrcoef(painted.mean(axis=2).ravel(), frame.mean(axis=2).ravel())[0, 1] > 0.3


def test_styles_lists_title_painter_year_license_and_training(run):
    code, out, _ = run("styles")
    assert code == 0
    assert '"The Great Wave off Kanagawa", Katsushika Hokusai, 1831, public domain' in out
    assert "held-out photos at 256 px: content" in out


def test_an_unknown_style_suggests_the_nearest(run, photo):
    code, _, err = run("stylize", photo, "--style", "grate_wave")
    assert code == 1
    assert 'did you mean "great_wave"?' in err


def test_a_missing_style_file_is_named(run, photo):
    code, _, err = run("stylize", photo, "--style", "my.onnx")
    assert code == 1
    assert "there is no file my.onnx" in err


def test_a_name_without_a_tier_means_the_one_that_the_judges_prefer(style_file, tmp_path):
    for tier in ("realtime", "quality"):
        (tmp_path / "s").mkdir(exist_ok=True)
        (tmp_path / "s" / f"{tier}.onnx").write_bytes(style_file.read_bytes())
    assert styles_module.find_style("s", tmp_path).name == "quality.onnx"
    assert styles_module.find_style("S/realtime", tmp_path).name == "realtime.onnx"
    for swd, preferred in ((0.04, "realtime.onnx"), (0.052, "realtime.onnx"), (0.06, "quality.onnx")):
        for tier, distance in (("realtime", swd), ("quality", 0.05)):
            (tmp_path / "s" / f"{tier}.json").write_text(json.dumps({"judged": {"256": {"swd": distance}}}))
        assert styles_module.find_style("s", tmp_path).name == preferred
        assert (styles_module.faster_tier("s", tmp_path) is None) == (preferred == "realtime.onnx")
        assert styles_module.find_style("s", tmp_path, styles_module.PREFERRED_LIVE).name == "realtime.onnx"


def test_doctor_examines_everything_and_succeeds(run):
    code, out, _ = run("doctor")
    assert code == 0
    for name in ("onnxruntime", "CPU", "CUDA", "display", "encoders", "training", "VGG-19", "styles"):
        assert name in out
    assert "ok  CPU" in out


@pytest.mark.parametrize("package", ["torch", "cv2", "onnxruntime", "av"])
def test_doctor_reports_what_does_not_load_and_goes_on(package, tmp_path):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('undefined symbol')")
    done = subprocess.run(
        [sys.executable, "-m", "allaprima", "doctor"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "does not load: undefined symbol; install it anew" in done.stdout
    assert done.stdout.count("\n") == 12
    assert "Traceback" not in done.stderr


def test_doctor_notices_two_onnxruntimes(monkeypatch):
    from allaprima.inference import doctor

    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "1.30")
    _, well, text = doctor.onnxruntimes()
    assert not well
    assert "overwrite each other" in text


@pytest.mark.parametrize(
    ("content", "well", "words"),
    [
        (None, False, ": No such file or directory"),
        (b"\x89PNG\r\n\x1a\n\0", False, ": neither safetensors nor a state dict"),
        (b"\x10\0\0\0\0\0\0\0{}", True, "(ALLAPRIMA_VGG19)"),
        (b"PK\x03\x04", True, "(ALLAPRIMA_VGG19)"),
    ],
)
def test_doctor_examines_the_file_of_vgg19_weights(monkeypatch, tmp_path, content, well, words):
    from allaprima.inference import doctor

    if content:
        (tmp_path / "vgg").write_bytes(content)
    monkeypatch.setenv("ALLAPRIMA_VGG19", str(tmp_path / "vgg"))
    found = doctor.vgg19_weights()
    assert found[1] == well
    assert found[2].endswith(words)


def test_train_dry_run_prints_the_options_and_writes_nothing(run, painting, photo_folder, tmp_path):
    code, out, _ = run("train", painting, "--photos", photo_folder, "-o", tmp_path / "run", "--dry-run", "--steps", "7")
    assert code == 0
    assert '"steps": 7' in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PAINTING"], "--photos FOLDER are needed"),
        (["nowhere.jpg", "--photos", "PHOTOS"], "there is no painting nowhere.jpg"),
        (["PAINTING", "--photos", "./nowhere"], "nowhere is not a folder"),
        (["PAINTING", "--photos", "EMPTY"], "holds no pictures"),
        (["--resume", "EMPTY"], "it has no options.json"),
        (["--resume", "EMPTY", "--steps", "5", "--quick"], "--steps, --quick: not with --resume"),
        (["PAINTING", "--photos", "PHOTOS", "--resume", "EMPTY"], "strokes.png: not with --resume"),
        (["PAINTING", "--photos", "PHOTOS", "--vgg19", "nothing.pth"], "no VGG-19 weights at nothing.pth"),
        (["PAINTING", "--photos", "PHOTOS", "--preview", "nothing.jpg"], "nothing.jpg cannot be read"),
    ],
)
def test_training_that_cannot_start_says_why(run, painting, photo_folder, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    names = {"PAINTING": painting, "PHOTOS": photo_folder, "EMPTY": tmp_path / "empty"}
    output = [] if "--resume" in arguments else ["-o", tmp_path / "run", "--steps", "1", "--device", "cpu"]
    if "--vgg19" not in arguments and "--resume" not in arguments:
        output += ["--vgg19", "tiny"]
    code, _, err = run("train", *(names.get(a, a) for a in arguments), *output)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "run").glob("step_*"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["bench", "--sizes", "x"], "x is not a side, or WIDTHxHEIGHT, of multiples of 4 and at least 16"),
        (["bench", "--sizes", "256,18x64"], "18x64 is not a side, or WIDTHxHEIGHT"),
        (["sweep", "a.png", "--photos", "b", "--style-weights", ","], ", holds none; one at least is wanted"),
    ],
)
def test_empty_and_invalid_lists_are_refused(run, capsys, command, message):
    with pytest.raises(SystemExit) as stopped:
        run(*command)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["demo", "a.png", "-o", "a.png", "--overwrite"],
        ["optimize", "a.png", "b.png", "-o", "a.png", "--overwrite"],
        ["optimize", "a.png", "b.png", "-o", "b.png", "--overwrite"],
        ["reconstruct", "a.png", "-o", "link.png", "--overwrite"],
    ],
)
def test_a_file_that_is_read_is_never_replaced(run, tmp_path, monkeypatch, landscape, command):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.fromarray(landscape).save(name)
    os.symlink("a.png", "link.png")
    before = [Path(name).read_bytes() for name in ("a.png", "b.png")]
    code, _, err = run(*command)
    assert code == 1
    assert "is read and would be replaced; give another -o" in err
    assert [Path(name).read_bytes() for name in ("a.png", "b.png")] == before


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("libGL.so.1: cannot open"), "what it needs cannot be loaded (libGL.so.1: cannot open); README says"),
        (MemoryError(), "styles needs more memory than there is"),
    ],
)
def test_import_and_memory_errors_are_one_line(run, monkeypatch, error, message):
    def lacking():
        raise error

    monkeypatch.setattr(styles_module, "shipped_styles", lacking)
    code, _, err = run("styles")
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


def test_a_sheet_that_cannot_be_written_is_refused_before_the_work(run, monkeypatch, tmp_path):
    monkeypatch.setattr("allaprima.inference.demo.demo_sheet", None)
    code, _, err = run("demo", "-o", tmp_path / "nowhere" / "sheet.png")
    assert code == 1
    assert "there is no folder" in err


@pytest.mark.skipif(os.name != "posix", reason="a shell")
@pytest.mark.parametrize(
    ("closed", "arguments", "printed"),
    [
        ("2>&-", ["stylize", "a.png", "-s", "STYLE", "-o", "b.png"], ["b.png"]),
        ("<&- >&- 2>&-", ["stylize", "a.png", "-s", "STYLE", "-o", "b.png"], []),
        ("<&-", ["video", "-", "-s", "STYLE", "-o", "b.mp4"], []),
    ],
)
def test_output_for_closed_standard_streams_is_discarded(tmp_path, style_file, landscape, closed, arguments, printed):
    Image.fromarray(landscape).save(tmp_path / "a.png")
    words = [str(style_file) if word == "STYLE" else word for word in arguments]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "allaprima", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == printed, done.stdout
    assert "Traceback" not in done.stderr
    assert done.returncode == ("video" in words and "-" in words[1:2])


@pytest.mark.skipif(os.name != "posix", reason="a shell")
@pytest.mark.parametrize(
    ("closed", "arguments", "said"),
    [
        (">&-", ["a.png", "-o", "-"], "standard output is closed; give a file with -o, or a pipe"),
        ("<&-", ["-", "-o", "b.mp4"], "standard input is empty, or no file"),
        ("<a.txt", ["-", "-o", "b.mp4"], "standard input is not a video that can be read"),
        ("<a.txt", ["-", "a.png", "-o", "out/"], "standard input is not a video that can be read"),
    ],
)
def test_problems_with_a_standard_stream_are_reported_by_its_name(tmp_path, style_file, landscape, closed, arguments, said):
    Image.fromarray(landscape).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("no film " * 100)
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "allaprima", "video", "-s", str(style_file)]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"\nallaprima: {said}" in f"\n{done.stderr}"
    assert "allaprima_" not in done.stderr  # the temporary folder of its file
    assert ("painting with" in done.stderr) == (closed != ">&-")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_if_a_film_for_standard_output_does_not_fit_the_temporary_folder_is_named(tmp_path, style_file, landscape):
    Image.fromarray(landscape).save(tmp_path / "a.png")
    command = ["sh", "-c", 'ulimit -f 2; exec "$@"', "sh", sys.executable, "-m", "allaprima", "video", "a.png"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, "-s", str(style_file), "-o", "-"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "allaprima: standard output cannot be written: File too large" in done.stderr
    assert f"it is written to {tmp_path} first, and TMPDIR names another place" in done.stderr


def test_a_file_name_that_the_terminal_cannot_show_is_printed_escaped(tmp_path, style_file, landscape):
    names = [os.fsdecode(b"bad\377.png"), "\u5199\u771f.png"]
    for name in names:
        Image.fromarray(landscape).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / name)
    command = [sys.executable, "-m", "allaprima", "stylize", *names, "-s", str(style_file), "-o", "out/"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == sorted(names)
    assert done.stdout.split() == [b"out/bad\\udcff.png", b"out/\\u5199\\u771f.png"]
