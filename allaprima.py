"""The command line of Alla Prima: fast neural style. One thin function per sub-command, its imports inside it."""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models import __version__
from models.errors import AllaPrimaError, Interrupted, OptimizeError, StyleError, TrainingError, VideoError, WebError
from training.config import (
    CHOICES,
    OPTIMIZE_CHOICES,
    STYLE_WEIGHT,
    EvaluateConfig,
    OptimizeConfig,
    ReconstructConfig,
    TrainConfig,
    flag,
)

# inference.film.sinks.CODECS and QUALITY, for the same reason as below
CODECS = ("auto", "h264", "hevc", "av1")
QUALITY = 75
COLOR_MODES = ("none", "luminance", "histogram", "linear")  # inference.color.MODES; importing it would import OpenCV


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 something failed, 2 wrong arguments, 130 interrupted.

    For `webcam` an interrupt is a way to quit like any other: 0.
    """
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except AllaPrimaError as error:
        print(f"allaprima: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except ImportError as error:  # some modules turn a Ctrl-C while they load into one
        if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise
        print("allaprima: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # | head
        sys.stderr.close()
        return 1
    except OSError as error:  # a name too long, a folder that may not be entered, a full disk
        print(f"allaprima: {error.filename or options.command.__name__}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("allaprima: stopped", file=sys.stderr)
        return 130


def demo(options: argparse.Namespace) -> int:
    from inference.demo import demo_sheet
    from inference.landscape import paint_landscape
    from inference.pictures import Picture, read_picture, resize_short_side, write_picture
    from inference.style.styles import shipped_styles

    styles = shipped_styles()
    if not styles:
        raise StyleError("no shipped styles in checkpoints/; train one with: allaprima train PAINTING --photos FOLDER")
    output = Path(options.output or "allaprima_demo.png")
    frames = [read_picture(photo, options.max_pixels).frame for photo in options.photos]
    frames = [resize_short_side(frame, 480) if min(frame.shape[:2]) > 480 else frame for frame in frames]
    sheet, times_ms = demo_sheet(frames or [paint_landscape(480, 640, seed=2)], styles)
    # The default name is the demo's own; a name that the user chose may be somebody's picture.
    write_picture(output, Picture(sheet), overwrite=options.overwrite or not options.output)
    wide = max(map(len, times_ms))
    for name, milliseconds in times_ms.items():
        print(f"{name:{wide}} {milliseconds:7.1f} ms a picture")
    print(f"look at {output.resolve()}")
    return 0


def stylize(options: argparse.Namespace) -> int:
    from inference.painter import StylizeOptions
    from inference.style.session import StyleSession
    from inference.style.styles import find_style, style_name
    from inference.stylize import plan_jobs, run_jobs

    path = find_style(options.style)
    jobs = plan_jobs(options.photos, options.output, style_name(options.style))
    how = StylizeOptions(options.keep_color, options.match_luminance, options.strength, options.max_side)
    at_once = min(len(jobs), options.jobs or os.cpu_count() or 1)
    session = StyleSession(path, options.device, shared=at_once > 1)
    print(f"painting with {path} on {session.where}", file=sys.stderr)
    results = run_jobs(jobs, session, how, overwrite=options.overwrite, max_pixels=options.max_pixels, at_once=at_once)
    if len(jobs) > 1 and sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track  # a single photo need not wait for it

        results = iter(track(results, "painting", total=len(jobs), console=Console(stderr=True)))
    failed = 0
    for job, error in results:
        if error is None:
            print(job.destination)
        else:
            failed += 1
            print(f"allaprima: {error}", file=sys.stderr)
    if failed and len(jobs) > 1:
        print(f"allaprima: {failed} of {len(jobs)} pictures failed, the others are painted", file=sys.stderr)
    return 1 if failed else 0


def video(options: argparse.Namespace) -> int:
    from inference.console import catch_interrupt, film_progress
    from inference.film.sinks import check_film_writable
    from inference.film.video import VideoOptions, default_output, paint_video
    from inference.painter import StylizeOptions
    from inference.profile import Profile, bare_session_ms
    from inference.style.session import StyleSession
    from inference.style.styles import find_style, style_name

    path, source = find_style(options.style), Path(options.film)
    if "://" in options.film:
        raise VideoError(f"{options.film} is an address; video paints files, webcam --camera takes addresses")
    output = Path(options.output) if options.output else default_output(source, style_name(options.style))
    check_film_writable(output, options.overwrite, options.codec)  # before the style is opened
    session = StyleSession(path, options.device, shared=True)
    print(f"painting with {path} on {session.where}", file=sys.stderr)
    how = StylizeOptions(options.keep_color, strength=options.strength, max_side_px=options.max_side)
    what = VideoOptions(options.codec, options.quality, options.start, options.duration)
    profile = Profile()

    def say(note: str) -> None:
        print(f"allaprima: {source}: {note}", file=sys.stderr)

    with catch_interrupt() as received, film_progress() as progress:
        stopped = lambda: received  # noqa: E731
        report = paint_video(
            source,
            output,
            session,
            how=how,
            options=what,
            overwrite=options.overwrite,
            stopped=stopped,
            progress=progress,
            profile=profile,
            say=say,
        )
    if report.skipped:
        text = f"{source}: {report.skipped} damaged packets or frames were skipped; what follows keeps its time"
        print(f"allaprima: {text}", file=sys.stderr)
    speed = f"{report.frames / report.wall_s:.1f} frames a second"
    if options.profile:
        print(profile.table())
        alone_ms, frame_ms = bare_session_ms(session, *report.work_size), 1000.0 * report.wall_s / report.frames
        share = f"all around it {frame_ms - alone_ms:.1f} ms, {frame_ms / alone_ms - 1.0:.0%}"
        print(f"{frame_ms:.1f} ms a frame in all, the network alone {alone_ms:.1f} ms: {share}")
    if not report.whole:
        raise Interrupted(f"stopped; {report.output} holds the first {report.end_s:.1f} s ({report.frames} frames)")
    print(f"{report.output}: {report.frames} frames, {report.end_s:.1f} s, {report.encoder}, painted at {speed}")
    return 0


def webcam(options: argparse.Namespace) -> int:
    from inference.buffers import Buffers
    from inference.console import catch_interrupt
    from inference.film.sinks import check_film_writable
    from inference.live.cameras import CameraFeed, open_camera
    from inference.live.displays import VirtualCamera, Window, check_virtual_camera
    from inference.live.rack import StyleRack
    from inference.live.webcam import Controls, Webcam
    from inference.profile import Profile, bare_session_ms
    from inference.style.styles import PREFERRED_LIVE, find_style, shipped_styles

    if options.record:
        check_film_writable(Path(options.record), options.overwrite)
        if Path(options.record).exists() and Path(options.camera).exists() and Path(options.record).samefile(options.camera):
            raise VideoError(f"{options.record} is the film that plays as the camera; record to another file")
    if options.virtual_camera:
        check_virtual_camera()
    window = None if options.headless else Window()
    names = options.style or [style.full_name for style in shipped_styles() if style.tier == PREFERRED_LIVE[0]]
    if not names:
        raise StyleError("no realtime styles in checkpoints/; give --style FILE.onnx")
    rack = StyleRack({name: find_style(name, tiers=PREFERRED_LIVE) for name in names}, options.device)
    buffers, profile = Buffers(), Profile()
    size = (options.size[1], options.size[0]) if options.size else None
    feed = CameraFeed(lambda: open_camera(options.camera, size, buffers), buffers, profile)
    print(f"painting with {rack.first.path} on {rack.first.where}", file=sys.stderr)
    controls = Controls(keep_color=options.keep_color, strength=options.strength)

    def open_virtual_camera(height: int, width: int) -> VirtualCamera:
        return VirtualCamera(height, width, options.target_fps or 30.0)

    live = Webcam(
        feed,
        rack,
        buffers,
        controls,
        target_fps=options.target_fps,
        display=window,
        record=Path(options.record) if options.record else None,
        virtual_camera=open_virtual_camera if options.virtual_camera else None,
        overwrite=options.overwrite,
        profile=profile,
        say=lambda text: print(text, file=sys.stderr),
    )
    try:
        with catch_interrupt() as received:
            report = live.run(options.frames, lambda: received)
    finally:
        feed.close()
        rack.close()
        if window:
            window.close()
    print(report)
    if options.profile:
        print(profile.table())
        height, width = live.work_size
        if height:
            alone_ms = bare_session_ms(rack.first, height, width)
            share = (
                f"; with this camera and all {report.fps:.1f}, {0.1 * report.fps * alone_ms:.0f} % of that"
                if report.fps
                else ""
            )
            print(f"the network alone at {width}x{height}: {alone_ms:.1f} ms, {1000.0 / alone_ms:.1f} a second{share}")
    return 0


def train(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from training.loop import train_together

    console = Console(highlight=False)
    runs = [_resumed_run(folder) for folder in options.resume] if options.resume else _new_runs(options)
    writes = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one talks and writes
    for run_folder, config in runs if writes else []:
        print(config.to_json())
        print(f"run folder: {run_folder}", flush=True)
    if options.dry_run:
        return 0
    for run_folder, config in runs if writes and not options.resume else []:
        _save_options(run_folder, config)
    run_folders, configs = zip(*runs, strict=True)
    train_together(configs, run_folders, console, resume=bool(options.resume))
    if not writes:
        return 0
    from inference.style.info import report_text
    from training.export.export import export as export_onnx

    for run_folder in run_folders:
        style = run_folder / "style.onnx"
        print(f"wrote {style}; {report_text(export_onnx(run_folder, style))}")
    if options.quick:
        from training.quick import full_training_text

        print(full_training_text(configs[0], run_folders[0]))
    print(f"try it: allaprima stylize PHOTO --style {shlex.quote(str(style))}")
    return 0


def sweep(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from training.quick import sweep as run_sweep

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise TrainingError("a sweep runs in one process; start it without torchrun")
    config = _chosen_config(options, options.painting)
    folder = Path(options.output or Path("runs", f"{Path(config.painting).stem}-sweep"))
    try:
        sheet = run_sweep(config, options.style_weights, options.style_sizes, folder, Console(highlight=False))
    except Interrupted as error:
        raise Interrupted("stopped; the same command goes on") from error
    print(f"look at {sheet.resolve()}")
    return 0


def optimize(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from training.classic.optimize import optimize as run_optimization

    config = OptimizeConfig(**_chosen(OptimizeConfig, options))
    content = Path(config.content)
    names = "_".join(Path(style).stem for style in config.styles)
    output = Path(options.output or content.parent / f"{content.stem}_{names}_optimized.png")
    to_look_at = run_optimization(config, output, Console(highlight=False), options.overwrite)
    print(f"look at {to_look_at.resolve()}")
    return 0


def reconstruct(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from training.classic.reconstruct import reconstruct as run_reconstruction

    config = ReconstructConfig(**_chosen(ReconstructConfig, options))
    output = Path(options.output)
    run_reconstruction(config, output, Console(highlight=False), options.overwrite)
    print(f"look at {output.resolve()}")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from inference.style.styles import find_style
    from training.studies.evaluate import evaluate as run_evaluation
    from training.studies.evaluate import table

    config = EvaluateConfig(**_chosen(EvaluateConfig, options))
    output = Path(options.output)
    if output.suffix != ".json":
        raise OptimizeError(f"-o is {output}; a name that ends in .json is wanted")
    for path in (output, output.with_suffix(".png")):
        if path.exists() and not options.overwrite:
            raise OptimizeError(f"{path} exists; give --overwrite to replace it, or another -o")
    networks = {}
    for style in options.styles:
        path = find_style(style)
        name = f"{path.parent.name}/{path.stem}".removeprefix("/")
        networks[str(path) if name in networks else name] = path
    result = run_evaluation(config, networks, output, Console(highlight=False))
    print(table(result))
    print(f"look at {output.with_suffix('.png').resolve()}")
    return 0


def _chosen(config: type[OptimizeConfig | ReconstructConfig | EvaluateConfig], options: argparse.Namespace) -> dict[str, Any]:
    """A config's fields as the command line gives them."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(config)}


def import_style(options: argparse.Namespace) -> int:
    _need_training_packages()
    from training.export.import_torch import import_torch

    output = Path(options.output)
    for path in (output, output.with_suffix(".json")):
        if path.exists() and not options.overwrite:
            raise StyleError(f"{path} exists; give --overwrite to replace it, or another -o")
    print(f"wrote {import_torch(Path(options.old), output)}; next: allaprima export {shlex.quote(str(output))}")
    return 0


def bench(options: argparse.Namespace) -> int:
    _need_training_packages()
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(TrainConfig)} | {"painting": None, "photos": None}
    names = ("painting", "photos", "tier", "compile", "workers", "batch_size", "size_px", "vgg19")
    useless = [name for name in names if getattr(options, name) != defaults[name]] if not options.training else []
    if useless:
        raise TrainingError(f"{', '.join(flag(name) for name in useless)}: only with --training; sizes are given with --sizes")
    if options.training:
        from training.studies.benchmark_loop import report

        print(report(_chosen_config(options, options.painting), options.rounds, options.ladder))
    else:
        import json

        from training.studies.benchmark import measure, table

        result = measure(options.sizes, options.rounds, options.device, options.precision)
        print(json.dumps(result, indent=1) if options.json else table(result))
    return 0


def _resumed_run(folder: str) -> tuple[Path, TrainConfig]:
    path = Path(folder, "options.json")
    if not path.is_file():
        raise TrainingError(f"{folder} is not a run folder: it has no options.json")
    return Path(folder), TrainConfig.read(path)


def _new_runs(options: argparse.Namespace) -> list[tuple[Path, TrainConfig]]:
    if len(options.paintings) > 1 and (options.title or options.painter or options.year):
        raise TrainingError("--title, --painter and --year are of one painting; train this one alone, or leave them out")
    runs: list[tuple[Path, TrainConfig]] = []
    for painting in options.paintings or [None]:
        config = _chosen_config(options, painting)
        if options.quick:
            from training.quick import quick_config

            config = quick_config(config)
        name = f"{Path(config.painting).stem}-{config.tier}{'-quick' if options.quick else ''}"
        run_folder = Path("runs", name) if not options.output else Path(options.output)
        if options.output and len(options.paintings) > 1:
            run_folder /= name
        if any(run_folder.glob("step_*.safetensors")) or (run_folder / "weights.safetensors").exists():
            raise TrainingError(
                f"{run_folder} holds a training; go on with --resume {shlex.quote(str(run_folder))}, or give another -o"
            )
        if run_folder in [other for other, _ in runs]:
            raise TrainingError(f"two paintings are named {Path(painting).stem}; rename one")
        runs.append((run_folder, config))
    return runs


def _chosen_config(options: argparse.Namespace, painting: str | None) -> TrainConfig:
    """The training options of a command line; those that a command does not have stay at their defaults."""
    photos = options.photos or os.environ.get("ALLAPRIMA_PHOTOS")
    if not painting or not photos:
        raise TrainingError(
            "a PAINTING and --photos FOLDER are needed to train, or --resume RUN_FOLDER to go on. Photos of anything do, a "
            "thousand or more: your own, or COCO's 5,000 (cocodataset.org, 2017 Val images, 1 GB). ALLAPRIMA_PHOTOS names a "
            "folder once for all"
        )
    if not Path(painting).is_file():
        raise TrainingError(f"there is no painting {painting}")
    chosen = {f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(options, f.name)}
    chosen |= {"painting": painting, "photos": photos}
    chosen["vgg19"] = chosen["vgg19"] or os.environ.get("ALLAPRIMA_VGG19")  # --resume may lack it, or have another
    for name in ("painting", "photos", "init", "vgg19"):  # --resume may be called from another folder
        if chosen.get(name) and Path(chosen[name]).exists():
            chosen[name] = str(Path(chosen[name]).resolve())
    if chosen.get("photo_store"):
        chosen["photo_store"] = str(Path(chosen["photo_store"]).resolve())
    chosen["preview"] = tuple(str(Path(photo).resolve()) for photo in chosen.get("preview", ()))
    return TrainConfig(**chosen)


def _save_options(run_folder: Path, config: TrainConfig) -> None:
    from inference.atomic import write_atomically

    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run_folder / "options.json", config.to_json().encode() + b"\n")
    except OSError as error:
        raise TrainingError(f"{run_folder} cannot be written to: {error.strerror or error}") from error


def export(options: argparse.Namespace) -> int:
    _need_training_packages()
    from inference.style.info import report_text
    from training.export.export import Flavor, Yardstick
    from training.export.export import export as export_onnx

    source = Path(options.run_or_checkpoint)
    flavor = Flavor(options.io, options.precision, options.strength, options.keep_color)
    base = source / "style" if source.is_dir() else source.with_suffix("")
    output = Path(options.output or f"{base}{flavor.suffix}.onnx")
    if output.exists() and not options.overwrite:
        raise StyleError(f"{output} exists; give --overwrite to replace it, or another -o")
    style_image = Path(options.style_image) if options.style_image else None
    yardstick = Yardstick(Path(options.photos) if options.photos else None, style_image, options.vgg19)
    print(f"wrote {output}; {report_text(export_onnx(source, output, flavor, yardstick))}")
    return 0


def info(options: argparse.Namespace) -> int:
    from inference.style.info import describe
    from inference.style.styles import find_style

    for i, name in enumerate(options.styles):
        path = find_style(name)
        if len(options.styles) > 1:
            print(f"{'' if i == 0 else chr(10)}{path}")
        for heading, text in describe(path):
            print(f"{heading:9} {text}")
    return 0


def web(options: argparse.Namespace) -> int:
    from inference.page.web import export_folder, make_server, write_single_file

    if options.overwrite and not options.single_file:
        raise WebError("--overwrite goes with --single-file; a folder must be new or empty")
    if options.export:
        size = export_folder(Path(options.export))
        print(f"wrote {options.export}, {size / 2**20:.0f} MB; put it on any https host, as it is")
        return 0
    if options.single_file:
        size = write_single_file(Path(options.single_file), options.overwrite)
        print(f"wrote {options.single_file}, {size / 2**20:.1f} MB; open it in a browser")
        return 0
    with make_server(options.port) as server:
        print(f"open http://127.0.0.1:{server.server_port}/ in a browser on this machine; Ctrl-C ends", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def styles(options: argparse.Namespace) -> int:
    from inference.style.styles import shipped_styles

    for style in shipped_styles():
        card = style.card
        who = ", ".join(str(card[key]) for key in ("painter", "year", "license") if card.get(key))
        print(f'{style.full_name:24} "{card.get("title", style.name)}", {who}; {style.path.stat().st_size / 2**20:.1f} MB')
        if style.flavors:
            print(f"{'':24} also as {', '.join(f'{style.full_name}.{flavor}' for flavor in style.flavors)}")
        if "photos_seen" in card:
            minutes = card["seconds"] / 60
            print(f"{'':24} trained on {card['photos_seen']:,} photos in {minutes:.0f} minutes, {card['device']}")
        if "started_from" in card:
            own = card["started_from"] == style.full_name
            print(f"{'':24} started from {'an earlier training of its own' if own else card['started_from']}")
        for size, parts in card.get("heldout", {}).items():
            print(f"{'':24} held-out photos at {size} px: content {parts['content']:.3f}, style {parts['style']:.3f}")
        if "border_band" in card:
            print(f"{'':24} band at the worst border: {card['border_band']} levels of 255")
        for size, figures in card.get("classic", {}).items():
            worth = [f"{figures[start]} iterations from {start}" for start in ("noise", "content") if start in figures]
            print(f"{'':24} worth {', '.join(worth)} of the classic optimization at {size} px")
    return 0


def doctor(options: argparse.Namespace) -> int:
    from inference.doctor import examine

    for name, well, text in examine():
        print(f"{'ok' if well else '--'}  {name:12} {text}")
    return 0


def _need_training_packages() -> None:
    import importlib.util

    missing = [
        name for name in ("torch", "safetensors", "onnx", "onnxscript", "matplotlib") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise TrainingError(f"training needs {', '.join(missing)}: pip install -e '.[train]'")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="allaprima",
        description="Fast neural style: train a network on one painting, then paint photos with it in one pass.",
        epilog="example: allaprima stylize photo.jpg --style great_wave\n'allaprima COMMAND --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"allaprima {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_stylize(commands)
    _add_video(commands)
    _add_webcam(commands)
    _add_train(commands)
    _add_sweep(commands)
    _add_optimize(commands)
    _add_reconstruct(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_info(commands)
    _add_web(commands)
    _add_import(commands)
    _add_bench(commands)
    _add(
        commands,
        "styles",
        styles,
        "list the shipped styles",
        "Title, painter, year and license of the painting, size of the file, how the network was trained, and its losses\n"
        "on held-out photos. Each name works as --style; a bare name means the best tier.",
        "allaprima styles",
    )
    _add(
        commands,
        "doctor",
        doctor,
        "say what this machine can run",
        "Opens providers and encoders rather than trusting what is installed, and looks for the display and for VGG-19.",
        "allaprima doctor",
    )
    return parser


Commands = argparse._SubParsersAction  # argparse has no public name for it


def _add(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int], summary: str, text: str, example: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{text}",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_demo(commands: Commands) -> None:
    text = (
        "Paints a picture in every shipped style, with the style's colors and with the content's, onto one\n"
        "contact sheet. Without a PHOTO the picture is a landscape that the program makes up."
    )
    parser = _add(commands, "demo", demo, "see every style on one sheet", text, "allaprima demo")
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="your own pictures instead of the landscape")
    parser.add_argument("-o", "--output", metavar="FILE", help="the sheet (default: allaprima_demo.png here)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file given with -o")
    _add_max_pixels(parser)


def _add_stylize(commands: Commands) -> None:
    text = (
        "Takes files, folders and globs. The result has the photo's size, orientation, transparency and color\n"
        "profile. Without -o it is named after photo and style: photo.jpg becomes photo_great_wave.jpg, the folder\n"
        "trip becomes trip_great_wave. A photo that fails is reported and the others are painted; the exit code is 1."
    )
    example = "allaprima stylize photo.jpg --style great_wave --keep-color luminance"
    parser = _add(commands, "stylize", stylize, "paint photos in a style", text, example)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a file, a folder or a glob")
    parser.add_argument("-s", "--style", required=True, metavar="NAME_OR_FILE", help="a shipped style, or an .onnx file")
    parser.add_argument("-o", "--output", metavar="FILE_OR_FOLDER", help="where to write")
    _add_keep_color(parser, "photo")
    parser.add_argument(
        "--match-luminance", action="store_true", help="with --keep-color luminance: keep the photo's contrast, too"
    )
    _add_max_side(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--jobs",
        type=_whole(1),
        default=0,
        metavar="N",
        help="photos in work at the same time (default: as many as there are cores)",
    )
    _add_max_pixels(parser)
    _add_device(parser)


def _add_video(commands: Commands) -> None:
    text = (
        "Sound and subtitles are passed on as they are, where OUT's format holds them (.webm: Opus and Vorbis only). Size,\n"
        "timestamps, color range and aspect stay the film's, which is painted upright. The result appears under its name\n"
        "when it is whole; after Ctrl-C it holds what is done, and replaces nothing. Damaged parts are skipped and counted.\n"
        "A bare STYLE means the best tier shipped; STYLE/realtime may be many times faster."
    )
    example = "allaprima video clip.mp4 --style great_wave/realtime --keep-color luminance"
    parser = _add(commands, "video", video, "paint a film", text, example)
    parser.add_argument("film", metavar="IN", help="a file of any kind that FFmpeg reads")
    parser.add_argument("-s", "--style", required=True, metavar="NAME_OR_FILE", help="a shipped style, or an .onnx file")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help=".mp4, .m4v, .mov, .mkv or .webm (default: IN_STYLE.mp4 beside IN)"
    )
    _add_keep_color(parser, "film")
    _add_max_side(parser)
    what = "auto is H.264, AV1 in .webm; .mov holds no AV1; in hardware where that works (default: auto)"
    parser.add_argument("--codec", choices=CODECS, default="auto", help=what)
    what = f"more is better and larger (default: {QUALITY})"
    parser.add_argument("--quality", type=_whole(1, 100), default=QUALITY, metavar="1..100", help=what)
    parser.add_argument(
        "--start", type=_seconds, default=0.0, metavar="T", help="begin here, in seconds or [H:]M:S (default: 0)"
    )
    parser.add_argument("--duration", type=_length, default=0.0, metavar="T", help="paint this long (default: to the end)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--profile", action="store_true", help="print how long each stage took")
    _add_device(parser)


def _add_webcam(commands: Commands) -> None:
    text = (
        "A window shows the camera painted; h in it lists the keys, q or Ctrl-C quits. --camera takes an index,\n"
        "an address (rtsp://, http://) or a film, which plays at its own speed over and over. A camera that hangs\n"
        "or is unplugged is opened again. A bare STYLE means the realtime tier; n and p change between several."
    )
    example = "allaprima webcam --style great_wave,starry_night --keep-color luminance"
    parser = _add(commands, "webcam", webcam, "paint the camera live", text, example)
    what = "shipped styles or .onnx files (default: all that are shipped in the realtime tier)"
    parser.add_argument("-s", "--style", type=_names, metavar="STYLE[,STYLE...]", help=what)
    parser.add_argument("--camera", default="0", metavar="N|URL|FILE", help="(default: 0, the first one)")
    what = "what to ask a camera for (default: 640x480); a film or stream is made to fit in, whole (default: its own size)"
    parser.add_argument("--size", type=_size, metavar="WxH", help=what)
    _add_keep_color(parser, "picture")
    what = "paint smaller while a frame takes too long, and larger again; the picture keeps its size"
    parser.add_argument("--target-fps", type=_number(0.0, 1000.0), default=0.0, metavar="N", help=what)
    parser.add_argument("--record", metavar="OUT.mp4", help="record from the beginning")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.mp4 if it exists")
    what = "show the result as a camera to other programs; needs pip install pyvirtualcam"
    parser.add_argument("--virtual-camera", action="store_true", help=what)
    parser.add_argument("--headless", action="store_true", help="without a window")
    parser.add_argument("--frames", type=_whole(0), default=0, metavar="N", help="stop after N painted frames (default: never)")
    parser.add_argument("--profile", action="store_true", help="print at the end how long each stage took")
    _add_device(parser)


def _add_keep_color(parser: argparse.ArgumentParser, content: str) -> None:
    text = (
        f"keep the {content}'s colors: luminance takes only light and dark from the painting, histogram and linear "
        f"move its palette to the {content}'s (default: none)"
    )
    parser.add_argument("--keep-color", choices=COLOR_MODES, default="none", help=text)
    text = f"0 is the {content} as it is, 1 the painting (default: 1)"
    parser.add_argument("--strength", type=_number(0.0, 1.0), default=1.0, metavar="0..1", help=text)


def _add_max_side(parser: argparse.ArgumentParser) -> None:
    text = "paint at this size at most and scale the result back: larger strokes, less time and memory"
    parser.add_argument("--max-side", type=_whole(16), default=0, metavar="PX", help=text)


def _add_device(parser: argparse.ArgumentParser) -> None:
    text = "where to run; auto takes CUDA where it works (default: auto)"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)


def _add_train(commands: Commands) -> None:
    text = (
        "Trains a network on one painting and many photos, exports it as style.onnx and says how to try it.\n"
        "Hours on a CPU by default: there, --steps 2500 --batch-size 2 takes about half an hour on two cores.\n"
        "Several paintings are trained together, a network each, which takes less time than one after the other.\n"
        "Ctrl-C saves; --resume RUN_FOLDER goes on."
    )
    example = "allaprima train painting.jpg --photos ~/Pictures -o runs/my_style"
    parser = _add(commands, "train", train, "train a new style", text, example)
    parser.add_argument("paintings", nargs="*", metavar="PAINTING", help="the style image")
    parser.add_argument(
        "--photos", metavar="FOLDER_OR_DATASET", help="a folder, or a Hugging Face dataset's name (default: $ALLAPRIMA_PHOTOS)"
    )
    what = "(default: runs/PAINTING-TIER); of several paintings the folder of such folders"
    parser.add_argument("-o", "--output", metavar="RUN_FOLDER", help=what)
    what = "go on with a training; needs nothing else"
    parser.add_argument("--resume", nargs="+", metavar="RUN_FOLDER", help=what)
    parser.add_argument("--dry-run", action="store_true", help="print the options and stop")
    parser.add_argument("--quick", action="store_true", help="a preview in minutes: small crops, few steps")
    _add_training_options(parser, [field.name for field in dataclasses.fields(TrainConfig)][2:])


def _add_sweep(commands: Commands) -> None:
    text = (
        "Trains a quick preview for every pair of style weight and style size, and lays them out on one contact\n"
        "sheet. The same command goes on after an interruption. All other options are those of a quick training."
    )
    example = "allaprima sweep painting.jpg --photos ~/Pictures --style-weights 2,5,10 --style-sizes 256,384"
    parser = _add(commands, "sweep", sweep, "compare style weights and sizes", text, example)
    parser.add_argument("painting", metavar="PAINTING", help="the style image")
    parser.add_argument("--photos", required=True, metavar="FOLDER_OR_DATASET", help="as for train")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="(default: runs/PAINTING-sweep)")
    weights = f"(default: {TrainConfig.style_weight:g})"
    parser.add_argument(
        "--style-weights", type=_tuple_of(float), default=[TrainConfig.style_weight], metavar="X,X", help=weights
    )
    sizes = f"(default: {TrainConfig.style_size_px})"
    parser.add_argument("--style-sizes", type=_tuple_of(int), default=[TrainConfig.style_size_px], metavar="PX,PX", help=sizes)
    names = ("tier", "device", "precision", "steps", "batch_size", "size_px", "seed", "init", "vgg19", "preview")
    _add_training_options(parser, names)


def _add_optimize(commands: Commands) -> None:
    text = (
        "The method that the networks are measured against (Gatys, Ecker, Bethge 2016): gradient descent on the picture's\n"
        "own pixels, with the losses of training. Minutes a picture; says how many. Ctrl-C keeps the best picture so far.\n"
        "Needs no training and no photos: any picture with any painting, or several."
    )
    example = "allaprima optimize photo.jpg painting.jpg --size 512 --snapshots 100,300,500"
    parser = _add(commands, "optimize", optimize, "paint one picture the classic, slow way", text, example)
    parser.add_argument("content", metavar="CONTENT", help="the photo")
    parser.add_argument("styles", nargs="+", metavar="STYLE", help="a painting; several are blended")
    parser.add_argument("-o", "--output", metavar="FILE", help="(default: CONTENT_STYLE_optimized.png beside CONTENT)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_optimize_options(parser, [field.name for field in dataclasses.fields(OptimizeConfig)][2:])


def _add_reconstruct(commands: Commands) -> None:
    text = (
        "Makes pictures out of noise until VGG-19 sees in them what it sees in IMAGE (Gatys, Ecker, Bethge 2016, Fig. 1):\n"
        "content from each layer's features, style from the Gram matrices of the layers up to each. One labelled sheet."
    )
    example = "allaprima reconstruct painting.jpg -o reconstructions.png"
    parser = _add(commands, "reconstruct", reconstruct, "show what each layer of VGG-19 knows", text, example)
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(ReconstructConfig)}
    parser.add_argument("image", metavar="IMAGE", help="a photo or a painting")
    parser.add_argument("-o", "--output", required=True, metavar="SHEET.png")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    layers = defaults["layers"]
    what = f"of VGG-19, conv1_1, relu1_1, ... relu5_4 (default: {','.join(layers)})"
    parser.add_argument("--layers", type=_tuple_of(str), default=layers, metavar="LAYER,...", help=what)
    parser.add_argument("--what", choices=("content", "style", "both"), default=defaults["what"], help="(default: both)")
    for name, metavar, what in (
        ("iterations", "N", "updates of each reconstruction"),
        ("size_px", "PX", "long side; a smaller picture keeps its size"),
    ):
        what = f"{what} (default: {defaults[name]})"
        parser.add_argument(flag(name), dest=name, type=_whole(1), default=defaults[name], metavar=metavar, help=what)
    names = ("optimizer", "pooling", "seed", "device", "precision", "vgg19", "max_pixels")
    _add_optimize_options(parser, names, ReconstructConfig)


def _add_evaluate(commands: Commands) -> None:
    text = (
        "Content, style and total loss of one or more networks on photos they were not trained on, beside those of the\n"
        "classic optimization after a number of iterations, with the same loss weights on the same photos: a table,\n"
        "FILE.json, and FILE.png, the loss against iterations with the networks as horizontal lines (Johnson et al. 2016,\n"
        "Fig. 5)."
    )
    example = "allaprima evaluate great_wave/realtime --style-image great_wave.jpg --photos heldout/"
    parser = _add(commands, "evaluate", evaluate, "measure networks against the classic way", text, example)
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(EvaluateConfig)}
    parser.add_argument("styles", nargs="+", metavar="STYLE_OR_ONNX", help="shipped styles or .onnx files, of one painting")
    parser.add_argument("--style-image", required=True, metavar="PAINTING", help="what they were trained on")
    parser.add_argument("--photos", required=True, metavar="FOLDER", help="photos they were not trained on")
    parser.add_argument("-o", "--output", default="evaluation.json", metavar="FILE.json", help="(default: evaluation.json)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    lists: tuple[tuple[str, Callable[[str], object], str, str], ...] = (
        ("sizes_px", int, "PX,PX", "sides of the photos' middle squares"),
        ("against", int, "N,N", "iterations of the classic optimization"),
        ("inits", str, "noise,content", "what it starts from"),
    )
    for name, kind, metavar, what in lists:
        default = defaults[name]
        what = f"{what} (default: {','.join(str(part) for part in default)})"
        parser.add_argument(flag(name), dest=name, type=_tuple_of(kind), default=default, metavar=metavar, help=what)
    parser.add_argument("--limit", type=_whole(0), default=0, metavar="N", help="only the first N photos")
    names = ("optimizer", "seed", "device", "precision", "vgg19", "max_pixels")
    _add_optimize_options(parser, names, EvaluateConfig)


def _add_optimize_options(
    parser: argparse.ArgumentParser,
    names: Sequence[str],
    config: type[OptimizeConfig | ReconstructConfig | EvaluateConfig] = OptimizeConfig,
) -> None:
    """Options by the fields' names, with the defaults of a config."""
    kinds: dict[str, tuple[Callable[[str], object], str, str]] = {
        "style_blend": (_tuple_of(float), "X,X", "how much each of several styles counts (default: all alike)"),
        "iterations": (int, "N", "updates of the picture, over all scales together"),
        "init": (str, "content|noise|FILE", "what to start from"),
        "content_weight": (float, "X", "more keeps the photo"),
        "style_weight": (float, "X", f"more gives the painting (default: {STYLE_WEIGHT:g}, or as much in other units)"),
        "tv_weight": (float, "X", "total variation: more is smoother"),
        "content_layers": (_tuple_of(str), "LAYER,...", "of VGG-19, conv1_1, relu1_1, ... relu5_4"),
        "style_layers": (_tuple_of(str), "LAYER,...", "likewise"),
        "style_layer_weights": (_tuple_of(float), "X,...", "one for each style layer (default: all alike)"),
        "size_px": (int, "PX", "long side of the result; a smaller photo keeps its size"),
        "scales": (int, "N", "from coarse to fine, each twice the size of the one before"),
        "snapshots": (_tuple_of(int), "N,...", "iterations after which the picture is saved, too, and put on a sheet"),
        "seed": (int, "N", "of the noise"),
        "vgg19": (str, "FILE|random", "VGG-19 weights (default: $ALLAPRIMA_VGG19, else torchvision's download)"),
        "max_pixels": (int, "N", "refuse larger pictures as decompression bombs; 0: 179 million"),
    }
    texts = {
        "pooling": "VGG-19's",
        "normalization": "of the losses",
        "bits": "a color channel of the result; 16 with PNG and TIFF",
        "precision": "of VGG-19; bf16 may be twice as fast, for another picture of the same loss; auto takes the faster",
        "keep_color": "keep the photo's colors: paint only light and dark, or recolor the painting first",
    }
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        default = defaults[name]
        shown = ",".join(str(part) for part in default) if isinstance(default, tuple) else default
        suffix = "" if shown in (None, "") else f" (default: {shown})"
        if name == "average":
            parser.add_argument("--average", action="store_true", help="the result is a moving average of the last pictures")
        elif name in OPTIMIZE_CHOICES:
            choices = OPTIMIZE_CHOICES[name]
            what = f"{texts.get(name, '')}{suffix}".strip()
            parser.add_argument(flag(name), dest=name, type=type(choices[0]), choices=choices, default=default, help=what)
        else:
            kind, metavar, what = kinds[name]
            parser.add_argument(flag(name), dest=name, type=kind, metavar=metavar, default=default, help=what + suffix)


def _add_import(commands: Commands) -> None:
    text = (
        "Takes a style file of pytorch/examples' fast_neural_style (.pth, .model) once, as weights of ours. Only numbers\n"
        "are read: nothing that the file's pickle asks to run is run."
    )
    example = "allaprima import candy.pth -o candy.safetensors"
    parser = _add(commands, "import", import_style, "take over an old style file", text, example)
    parser.add_argument("old", metavar="OLD.pth", help="a state dict of pytorch/examples' TransformerNet")
    parser.add_argument("-o", "--output", required=True, metavar="NEW.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def _add_bench(commands: Commands) -> None:
    text = (
        "Without --training: seconds a picture of the classic optimization and of each network, Johnson's among them, in\n"
        "torch and in ONNX Runtime, beside the paper's (Johnson et al. 2016, Table 1). Minutes; downloads nothing.\n"
        "With --training: photos a second and peak memory of the training loop, beside the plain loop of peers."
    )
    example = "allaprima bench --sizes 256,640x480"
    parser = _add(commands, "bench", bench, "measure speed side by side", text, example)
    sizes = [(256, 256), (512, 512), (1024, 1024)]
    what = "side of a square, or WIDTHxHEIGHT (default: 256,512,1024)"
    parser.add_argument("--sizes", type=_sizes, default=sizes, metavar="PX,PX", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("painting", nargs="?", metavar="PAINTING", help="with --training")
    parser.add_argument("--photos", metavar="FOLDER", help="with --training")
    parser.add_argument("--training", action="store_true", help="measure the training loop")
    parser.add_argument("--ladder", action="store_true", help="with --training: idea by idea from the plain loop to ours")
    parser.add_argument(
        "--rounds", type=_whole(1), default=5, metavar="N", help="turns of each network, or of each loop, 2 s long (default: 5)"
    )
    names = ("tier", "device", "precision", "compile", "workers", "batch_size", "size_px", "vgg19")
    _add_training_options(parser, names)


def _add_training_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Options of `TrainConfig`, by its fields' names."""
    kinds: dict[str, tuple[Callable[[str], object], str, str]] = {
        "steps": (int, "N", "weight updates"),
        "batch_size": (int, "N", "photos a step, all processes together"),
        "size_px": (int, "PX", "side of the photos' crops"),
        "margin_px": (int, "PX", "painted around them and cut off, so that no border is learned"),
        "style_size_px": (int, "PX", "short side of the painting; larger gives larger strokes"),
        "content_weight": (float, "X", "more keeps the photo"),
        "style_weight": (_style_weight, "X|auto", "more gives the painting; 3 to 10 look right; auto holds a balance"),
        "tv_weight": (float, "X", "more is smoother"),
        "border_weight": (float, "X", "more keeps bands away from the picture's border"),
        "lr": (float, "X", "Adam's peak learning rate"),
        "max_pixels": (int, "N", "refuse larger pictures as decompression bombs; 0: 179 million"),
        "seed": (int, "N", "of weights, order and crops"),
        "preview_every": (int, "N", "steps between two preview sheets"),
        "checkpoint_every": (int, "N", "steps between two checkpoints"),
    }
    texts = {
        "init": ("base|none|FILE", "start from the base (default), from noise, or from another style's .safetensors"),
        "vgg19": ("FILE|random", "VGG-19 weights (default: $ALLAPRIMA_VGG19, else torchvision's download)"),
        "photo_store": ("FOLDER", "keep all photos decoded there (0.6 MB each) for the next training on them"),
        "title": ("TEXT", "of the painting, for the style's card (default: the file's name)"),
        "painter": ("TEXT", "for the card"),
        "year": ("TEXT", "for the card"),
        "license": ("TEXT", "of the painting, for the card"),
    }
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name in names:
        default = defaults[name]
        if name == "preview":
            parser.add_argument("--preview", nargs="+", metavar="PHOTO", default=[], help="photos for the preview sheet")
        elif name in CHOICES:
            parser.add_argument(flag(name), dest=name, choices=CHOICES[name], default=default, help=f"(default: {default})")
        elif name in kinds:
            kind, metavar, what = kinds[name]
            what = f"{what} (default: {default})"
            parser.add_argument(flag(name), dest=name, type=kind, metavar=metavar, default=default, help=what)
        elif name == "workers":
            what = (
                "threads that prepare photos; on a CPU the result is the same for any number (default: 4; with a GPU all cores)"
            )
            parser.add_argument("--workers", type=int, metavar="N", help=what)
        else:
            metavar, what = texts[name]
            parser.add_argument(flag(name), dest=name, metavar=metavar, default=default, help=what)


def _style_weight(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _sizes(text: str) -> list[tuple[int, int]]:
    """Height and width of each, multiples of the networks' stride."""
    sizes = []
    for part in text.split(","):
        width, _, height = part.partition("x")
        sizes.append((int(height or width), int(width)))
        if any(side < 16 or side % 4 for side in sizes[-1]):
            raise argparse.ArgumentTypeError(f"{part} has a side that is not a multiple of 4 and at least 16")
    return sizes


def _tuple_of(kind: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    def parts(text: str) -> tuple[object, ...]:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())

    return parts


def _add_export(commands: Commands) -> None:
    text = (
        "Writes the file only if ONNX Runtime paints with it what torch paints, on photos and at odd sizes, and prints how\n"
        "near it comes. image: float32 NCHW in [0, 1], sides multiples of 4, for every runtime; frame: uint8 NHWC of any\n"
        "size, the easiest to call, with optional inputs strength and keep_color. fp32 is for all, fp16 for GPUs, int8 for\n"
        "CPUs and phones."
    )
    example = "allaprima export runs/my_style --io frame --precision int8"
    parser = _add(commands, "export", export, "turn a training into an .onnx file", text, example)
    parser.add_argument("run_or_checkpoint", metavar="RUN_OR_CHECKPOINT", help="a run folder or a .safetensors file")
    what = "(default: style.onnx in the run folder, style.frame.onnx, style.int8.onnx, ...)"
    parser.add_argument("-o", "--output", metavar="FILE.onnx", help=what)
    parser.add_argument("--io", choices=("image", "frame"), default="image", help="(default: image)")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="(default: fp32)")
    what = "1 keeps the content's colors (luminance-only); without a number 1 (default: 0). Fixed in an image file, in a frame"
    what += " file what counts where the input is not fed; --strength alike"
    kind = _number(0.0, 1.0)
    parser.add_argument("--keep-color", type=kind, nargs="?", const=1.0, default=0.0, metavar="0..1", help=what)
    what = "0 is the content as it is, 1 the painting (default: 1)"
    parser.add_argument("--strength", type=kind, default=1.0, metavar="0..1", help=what)
    what = "to compare on, and for int8 to measure ranges on (default: those of the run, else three that come along)"
    parser.add_argument("--photos", metavar="FOLDER", help=what)
    what = "the painting, which int8 is compared with (default: the run's)"
    parser.add_argument("--style-image", metavar="PAINTING", help=what)
    _add_training_options(parser, ("vgg19",))
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def _add_info(commands: Commands) -> None:
    text = "Inputs and outputs, sizes, style, license, options and how it compared with torch; nothing in the file is run."
    example = "allaprima info great_wave/realtime.frame"
    parser = _add(commands, "info", info, "say what an .onnx file is", text, example)
    parser.add_argument("styles", nargs="+", metavar="NAME_OR_FILE", help="an .onnx file of ours, or a shipped style")


def _add_web(commands: Commands) -> None:
    text = (
        "A page that paints webcam, photos and videos in the browser: with WebGPU where the browser has it, else on the CPU.\n"
        "No picture leaves the machine. Without options it is served here, for this machine alone."
    )
    parser = _add(commands, "web", web, "paint in a browser", text, "allaprima web")
    what = "where to serve; 0 takes any that is free (default: 8000)"
    parser.add_argument("--port", type=_whole(0, 65535), default=8000, metavar="N", help=what)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--export", metavar="FOLDER", help="write the page for any static host instead")
    one.add_argument("--single-file", metavar="OUT.html", help="write one file that works from the disk instead")
    parser.add_argument("--overwrite", action="store_true", help="replace the file given with --single-file")


def _add_max_pixels(parser: argparse.ArgumentParser) -> None:
    text = "refuse larger pictures, which may be decompression bombs (default: 179 million)"
    parser.add_argument("--max-pixels", type=_whole(1), default=0, metavar="N", help=text)


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least:g} to {most:g}")
        return value

    return number


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text) if text.lstrip("+-").isdecimal() else None
        if value is None or value < least or (most is not None and value > most):
            wanted = f"{least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not a whole number, {wanted}")
        return value

    return whole_number


def _seconds(text: str) -> float:
    """ "90", "1:30" or "0:01:30"."""
    try:
        seconds = [float(part) for part in text.split(":")]
    except ValueError:
        seconds = [float("nan")]
    total = sum(part * 60.0**power for power, part in enumerate(reversed(seconds)))
    if not (0.0 <= total < 1e9 and len(seconds) <= 3 and all(0.0 <= part < 60.0 for part in seconds[1:])):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds or [H:]M:S")
    return total


def _length(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text} is no time at all; leave --duration out to paint to the end")
    return seconds


def _size(text: str) -> tuple[int, int]:
    """Width and height."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and all(16 <= int(side) <= 16384 for side in (width, height))):
        raise argparse.ArgumentTypeError(f"{text} is not WIDTHxHEIGHT with sides from 16 to 16384")
    return int(width), int(height)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("no style is named; allaprima styles lists them")
    return names


if __name__ == "__main__":
    sys.exit(main())
