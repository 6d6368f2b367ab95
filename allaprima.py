"""The command line of Alla Prima: fast neural style. One thin function per sub-command, its imports inside it."""

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from models import __version__
from models.errors import AllaPrimaError, StyleError, TrainingError
from training.config import CHOICES, TrainConfig, flag

COLOR_MODES = ("none", "luminance", "histogram", "linear")  # inference.color.MODES; importing it would import OpenCV


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 well, 1 something failed, 2 wrong arguments, 130 interrupted."""
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except AllaPrimaError as error:
        print(f"allaprima: {error}", file=sys.stderr)
        return 1
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
    from inference.demo import demo_sheet, paint_landscape
    from inference.pictures import Picture, read_picture, resize_short_side, write_picture
    from inference.styles import shipped_styles

    styles = shipped_styles()
    if not styles:
        raise StyleError("no shipped styles in checkpoints/; train one with: allaprima train PAINTING --photos FOLDER")
    output = Path(options.output or "allaprima_demo.png")
    frames = [read_picture(photo, options.max_pixels).frame for photo in options.photos]
    frames = [resize_short_side(frame, 480) if min(frame.shape[:2]) > 480 else frame for frame in frames]
    sheet, times_ms = demo_sheet(frames or [paint_landscape(480, 640, seed=2)], styles)
    # The default name is the demo's own; a name that the user chose may be somebody's picture.
    write_picture(output, Picture(sheet), overwrite=options.overwrite or not options.output)
    for name, milliseconds in times_ms.items():
        print(f"{name:24} {milliseconds:7.1f} ms a picture")
    print(f"look at {output.resolve()}")
    return 0


def stylize(options: argparse.Namespace) -> int:
    from inference.session import StyleSession
    from inference.styles import find_style
    from inference.stylize import StylizeOptions, plan_jobs, run_jobs

    path = find_style(options.style)
    name = path.stem if options.style.lower().endswith(".onnx") else options.style.replace("/", "_").replace(" ", "_")
    jobs = plan_jobs(options.photos, options.output, name)
    how = StylizeOptions(options.keep_color, options.match_luminance, options.strength, options.max_side)
    results = run_jobs(jobs, StyleSession(path, options.device), how, options.overwrite, options.max_pixels)
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


def train(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from training.loop import Interrupted
    from training.loop import train as run_training

    console = Console(highlight=False)
    run_folder, config = _resumed_run(options.resume) if options.resume else _new_run(options)
    print(config.to_json())
    print(f"run folder: {run_folder}")
    if options.dry_run:
        return 0
    if not options.resume:
        _save_options(run_folder, config)
    try:
        run_training(config, run_folder, console, resume=bool(options.resume))
    except Interrupted as stopped:
        print(f"allaprima: {stopped}", file=sys.stderr)
        return 130
    from training.export import export as export_onnx

    style = run_folder / "style.onnx"
    difference = export_onnx(run_folder, style)
    print(f"wrote {style}; torch and ONNX Runtime differ by at most {difference:.1e}")
    print(f"try it: allaprima stylize PHOTO --style {shlex.quote(str(style))}")
    return 0


def _resumed_run(folder: str) -> tuple[Path, TrainConfig]:
    path = Path(folder, "options.json")
    if not path.is_file():
        raise TrainingError(f"{folder} is not a run folder: it has no options.json")
    return Path(folder), TrainConfig.read(path)


def _new_run(options: argparse.Namespace) -> tuple[Path, TrainConfig]:
    if not options.painting or not options.photos:
        raise TrainingError("a PAINTING and --photos FOLDER are needed to train, or --resume RUN_FOLDER to go on")
    if not Path(options.painting).is_file():
        raise TrainingError(f"there is no painting {options.painting}")
    chosen = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    chosen["vgg19"] = chosen["vgg19"] or os.environ.get("ALLAPRIMA_VGG19")  # --resume may lack it, or have another
    for name in ("painting", "photos", "init", "vgg19"):  # --resume may be called from another folder
        if chosen[name] and Path(chosen[name]).exists():
            chosen[name] = str(Path(chosen[name]).resolve())
    chosen["preview"] = tuple(str(Path(photo).resolve()) for photo in chosen["preview"])
    config = TrainConfig(**chosen)
    run_folder = Path(options.output or Path("runs", f"{Path(config.painting).stem}-{config.tier}"))
    if any(run_folder.glob("step_*.safetensors")) or (run_folder / "weights.safetensors").exists():
        raise TrainingError(
            f"{run_folder} holds a training; go on with --resume {shlex.quote(str(run_folder))}, or give another -o"
        )
    return run_folder, config


def _save_options(run_folder: Path, config: TrainConfig) -> None:
    from inference.pictures import write_atomically

    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run_folder / "options.json", config.to_json().encode() + b"\n")
    except OSError as error:
        raise TrainingError(f"{run_folder} cannot be written to: {error.strerror or error}") from error


def export(options: argparse.Namespace) -> int:
    _need_training_packages()
    from training.export import export as export_onnx

    source = Path(options.run_or_checkpoint)
    output = Path(options.output or (source / "style.onnx" if source.is_dir() else source.with_suffix(".onnx")))
    if output.exists() and not options.overwrite:
        raise StyleError(f"{output} exists; give --overwrite to replace it, or another -o")
    difference = export_onnx(source, output)
    print(f"wrote {output}; torch and ONNX Runtime differ by at most {difference:.1e}")
    return 0


def styles(options: argparse.Namespace) -> int:
    from inference.styles import shipped_styles

    for style in shipped_styles():
        card = style.card
        who = ", ".join(str(card[key]) for key in ("painter", "year", "license") if card.get(key))
        print(f'{style.full_name:24} "{card.get("title", style.name)}", {who}; {style.path.stat().st_size / 2**20:.1f} MB')
        if "photos_seen" in card:
            minutes = card["seconds"] / 60
            print(f"{'':24} trained on {card['photos_seen']:,} photos in {minutes:.0f} minutes, {card['device']}")
        if "started_from" in card:
            print(f"{'':24} started from {card['started_from']}")
        for size, parts in card.get("heldout", {}).items():
            print(f"{'':24} held-out photos at {size} px: content {parts['content']:.3f}, style {parts['style']:.3f}")
    return 0


def doctor(options: argparse.Namespace) -> int:
    from inference.doctor import examine

    for name, well, text in examine():
        print(f"{'ok' if well else '--'}  {name:12} {text}")
    return 0


def _need_training_packages() -> None:
    import importlib.util

    missing = [name for name in ("torch", "safetensors", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
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
    _add_train(commands)
    _add_export(commands)
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
    parser.add_argument(
        "--keep-color",
        choices=COLOR_MODES,
        default="none",
        help="keep the photo's colors: luminance takes only light and dark from the painting, histogram and linear "
        "move its palette to the photo's (default: none)",
    )
    parser.add_argument(
        "--match-luminance", action="store_true", help="with --keep-color luminance: keep the photo's contrast, too"
    )
    parser.add_argument(
        "--strength", type=_number(0.0, 1.0), default=1.0, metavar="0..1", help="0 is the photo, 1 the painting (default: 1)"
    )
    parser.add_argument(
        "--max-side",
        type=_whole(16),
        default=0,
        metavar="PX",
        help="paint at this size at most and scale the result back: larger strokes, less time and memory",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    _add_max_pixels(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (default: auto)")


def _add_train(commands: Commands) -> None:
    text = (
        "Trains a network on one painting and many photos, exports it as style.onnx and says how to try it.\n"
        "Hours on a CPU by default: there, --steps 2500 --batch-size 2 takes about half an hour on two cores.\n"
        "Ctrl-C saves; --resume RUN_FOLDER goes on."
    )
    example = "allaprima train painting.jpg --photos ~/Pictures -o runs/my_style"
    parser = _add(commands, "train", train, "train a new style", text, example)
    parser.add_argument("painting", nargs="?", metavar="PAINTING", help="the style image")
    parser.add_argument("--photos", metavar="FOLDER_OR_DATASET", help="a folder, or a Hugging Face dataset's name")
    parser.add_argument("-o", "--output", metavar="RUN_FOLDER", help="(default: runs/PAINTING-TIER)")
    parser.add_argument("--resume", metavar="RUN_FOLDER", help="go on with a training; needs nothing else")
    parser.add_argument("--dry-run", action="store_true", help="print the options and stop")
    numbers: dict[str, tuple[type, str, str]] = {
        "steps": (int, "N", "weight updates"),
        "batch_size": (int, "N", "photos a step"),
        "size_px": (int, "PX", "side of the photos' crops"),
        "style_size_px": (int, "PX", "short side of the painting; larger gives larger strokes"),
        "content_weight": (float, "X", "more keeps the photo"),
        "style_weight": (float, "X", "more gives the painting; 3 to 10 look right"),
        "tv_weight": (float, "X", "more is smoother"),
        "lr": (float, "X", "Adam's peak learning rate"),
        "max_pixels": (int, "N", "refuse larger pictures as decompression bombs; 0: 179 million"),
        "seed": (int, "N", "of weights, order and crops"),
        "preview_every": (int, "N", "steps between two preview sheets"),
        "checkpoint_every": (int, "N", "steps between two checkpoints"),
    }
    texts = {
        "init": ("CHECKPOINT", "start from another style's .safetensors instead of from noise"),
        "vgg19": ("FILE|random", "VGG-19 weights (default: $ALLAPRIMA_VGG19, else torchvision's download)"),
        "title": ("TEXT", "of the painting, for the style's card (default: the file's name)"),
        "painter": ("TEXT", "for the card"),
        "year": ("TEXT", "for the card"),
        "license": ("TEXT", "of the painting, for the card"),
    }
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name, choices in CHOICES.items():
        parser.add_argument(flag(name), dest=name, choices=choices, default=defaults[name], help=f"(default: {defaults[name]})")
    for name, (kind, metavar, what) in numbers.items():
        what = f"{what} (default: {defaults[name]})"
        parser.add_argument(flag(name), dest=name, type=kind, metavar=metavar, default=defaults[name], help=what)
    for name, (metavar, what) in texts.items():
        parser.add_argument(flag(name), dest=name, metavar=metavar, default=defaults[name], help=what)
    parser.add_argument("--preview", nargs="+", metavar="PHOTO", default=[], help="photos for the preview sheet")


def _add_export(commands: Commands) -> None:
    text = "Writes the file only if ONNX Runtime paints the same with it as torch, at several odd sizes."
    parser = _add(
        commands,
        "export",
        export,
        "turn a training into an .onnx file",
        text,
        "allaprima export runs/my_style -o my_style.onnx",
    )
    parser.add_argument("run_or_checkpoint", metavar="RUN_OR_CHECKPOINT", help="a run folder or a .safetensors file")
    parser.add_argument("-o", "--output", metavar="FILE.onnx", help="(default: style.onnx in the run folder)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def _add_max_pixels(parser: argparse.ArgumentParser) -> None:
    text = "refuse larger pictures, which may be decompression bombs (default: 179 million)"
    parser.add_argument("--max-pixels", type=_whole(1), default=0, metavar="N", help=text)


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


def _whole(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return whole_number


if __name__ == "__main__":
    sys.exit(main())
