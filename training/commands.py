"""The commands that train, export and compare: train, sweep, optimize, reconstruct, evaluate, export, import, bench; each
command's options stand next to its code.

Everything heavier than the standard library is imported inside a command, so that --help is instant.
"""

import argparse
import dataclasses
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allaprima.models.errors import Interrupted, OptimizeError, StyleError, TrainingError, install_line
from allaprima.models.options import (
    Commands,
    add_command,
    add_options,
    chosen,
    flag,
    several_of,
    whole_number,
)
from allaprima.training.config import EvaluateConfig, Flavor, OptimizeConfig, ReconstructConfig, TrainConfig


def add_train(commands: Commands) -> None:
    text = (
        "Trains a network on one painting and many photos, exports it as style.onnx and says how to try it.\n"
        "Hours on a CPU by default: there, --steps 2500 --batch-size 2 takes about half an hour on two cores.\n"
        "Several paintings are trained together, a network each, which takes less time than one after the other; with\n"
        "--as-one they become one style. --into palette takes a minute: it learns only a painting's own numbers.\n"
        "Ctrl-C saves; --resume RUN_FOLDER goes on."
    )
    example = "allaprima train painting.jpg --photos ~/Pictures -o runs/my_style"
    parser = add_command(commands, "train", train, "train a new style", text, example)
    parser.add_argument("style_images", nargs="*", metavar="PAINTING", help="the style image")
    parser.add_argument(
        "--photos", metavar="FOLDER_OR_DATASET", help="a folder, or a Hugging Face dataset's name (default: $ALLAPRIMA_PHOTOS)"
    )
    what = "(default: runs/PAINTING-TIER); of several paintings the folder of such folders"
    parser.add_argument("-o", "--output", metavar="RUN_FOLDER", help=what)
    what = "go on with a training; needs nothing else, but for --photos where they have moved"
    parser.add_argument("--resume", nargs="+", metavar="RUN_FOLDER", help=what)
    parser.add_argument("--as-one", action="store_true", help="one style from all the paintings, those of an artist, say")
    parser.add_argument("--dry-run", action="store_true", help="print the options and stop")
    parser.add_argument("--quick", action="store_true", help="a preview in minutes: small crops, few steps")
    add_options(parser, TrainConfig)
    parser.add_argument("--preview", nargs="+", metavar="PHOTO", default=[], help="photos for the preview sheet")


def train(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from allaprima.training.loop import train_together

    console = Console(highlight=False)
    if options.resume:
        _check_nothing_else(options)
    runs = [_resumed_run(folder, options.photos) for folder in options.resume] if options.resume else _new_runs(options)
    writes = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, only one prints and writes
    for run_folder, config in runs if writes else []:
        print(config.to_json())
        print(f"run folder: {run_folder}", flush=True)
    if options.dry_run:
        return 0
    for run_folder, config in runs if writes and (options.photos or not options.resume) else []:
        _save_options(run_folder, config)
    run_folders, configs = zip(*runs, strict=True)
    train_together(configs, run_folders, console, resume=bool(options.resume))
    if not writes:
        return 0
    from allaprima.inference.style.info import report_text

    for run_folder, config in runs:
        style, report = _export_run(run_folder, config)
        print(f"wrote {style}; {report_text(report)}")
        if config.into == "palette":
            painting = _painting_file(run_folder, config)
            size, mix = painting.stat().st_size / 1000, shlex.quote(f"{painting}:0.5,starry_night:0.5")
            print(
                f"wrote {painting}, {size:.0f} kB, what is its own in the palette; a mix: allaprima stylize PHOTO --style {mix}"
            )
    if options.quick:
        from allaprima.training.quick import full_training_text

        print(full_training_text(configs[0], run_folders[0]))
    print(f"try it: allaprima stylize PHOTO --style {shlex.quote(str(style))}")
    return 0


def train_style(style_image: Path, photos: Path, run_folder: Path, quick: bool, options: Mapping[str, Any]) -> Path:
    """See `allaprima.train`."""
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"train has no option {', '.join(unknown)}; there are {', '.join(known)}")
    _need_training_packages()
    from rich.console import Console

    from allaprima.training.loop import train_together

    config = _as_asked(_config_of({"style_image": str(style_image), "photos": str(photos), **options}), quick)
    _check_new(run_folder, photos)
    _save_options(run_folder, config)
    train_together([config], [run_folder], Console(highlight=False))
    return _export_run(run_folder, config)[0]


def _export_run(run_folder: Path, config: TrainConfig) -> tuple[Path, dict[str, Any]]:
    """Write a finished training's style.onnx and, if it was made in the palette, the painting's own numbers; returns the
    style file and the report on it."""
    from allaprima.training.checkpoint import find_weights, load_net
    from allaprima.training.conditional_instance_norm import save_painting
    from allaprima.training.export.export import export as export_onnx

    style = run_folder / "style.onnx"
    report = export_onnx(run_folder, style)
    if config.into == "palette":
        save_painting(_painting_file(run_folder, config), load_net(find_weights(run_folder))[0], config.style_title)
    return style, report


def _painting_file(run_folder: Path, config: TrainConfig) -> Path:
    return run_folder / f"{Path(config.style_image).stem}.npz"


def _check_nothing_else(options: argparse.Namespace) -> None:
    """Raises a `TrainingError` if --resume comes with options that would have no effect."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    defaults |= {"output": None, "quick": False, "as_one": False, "preview": []}
    del defaults["photos"]  # they may have moved
    useless = [flag(name) for name, default in defaults.items() if getattr(options, name, default) != default]
    if useless or options.style_images:
        given = ", ".join([*options.style_images, *useless])
        raise TrainingError(f"{given}: not with --resume, which goes on with the run's own options; leave it out")


def _resumed_run(folder: str, photos: str | None) -> tuple[Path, TrainConfig]:
    """A run's folder and options; `photos` replaces its photos, or says where they are now."""
    path = Path(folder, "options.json")
    if not path.is_file():
        raise TrainingError(f"{folder} is not a run folder: it has no options.json")
    config = TrainConfig.read(path)
    if photos:
        return Path(folder), dataclasses.replace(config, photos=os.path.realpath(photos) if Path(photos).exists() else photos)
    if os.path.isabs(config.photos) and not Path(config.photos).exists():
        where = f"--resume {shlex.quote(folder)} --photos FOLDER"
        raise TrainingError(f"the photos of {folder} are no longer in {config.photos}; say where they are: {where}")
    return Path(folder), config


def _new_runs(options: argparse.Namespace) -> list[tuple[Path, TrainConfig]]:
    paintings = [[path] for path in options.style_images] or [[]]
    if options.as_one:
        paintings = [options.style_images]
    if len(paintings) > 1 and (options.title or options.painter or options.year or options.style_blend):
        raise TrainingError(
            "--title, --painter, --year and --style-blend are of one style; train this one alone, or leave them out"
        )
    runs: list[tuple[Path, TrainConfig]] = []
    for style_images in paintings:
        config = _as_asked(_chosen_config(options, style_images), options.quick)
        kind = config.into if config.into == "palette" else config.tier
        name = f"{'-'.join(Path(path).stem for path in style_images)[:80]}-{kind}{'-quick' if options.quick else ''}"
        run_folder = Path("runs", name) if not options.output else Path(options.output)
        if options.output and len(paintings) > 1:
            run_folder /= name
        _check_new(run_folder, Path(config.photos))
        if run_folder in [other for other, _ in runs]:
            raise TrainingError(f"two paintings are named {Path(style_images[0]).stem}; rename one")
        runs.append((run_folder, config))
    return runs


def _as_asked(config: TrainConfig, quick: bool) -> TrainConfig:
    """The options with those of a short training, if that is asked for."""
    from allaprima.training.quick import PALETTE, QUICK, with_preset

    if config.into == "palette":
        if quick:
            raise TrainingError("--into palette takes a minute by itself; leave out --quick")
        return with_preset(config, PALETTE)
    return with_preset(config, QUICK) if quick else config


def _check_new(run_folder: Path, photos: Path) -> None:
    if photos.is_dir() and run_folder.resolve().is_relative_to(photos.resolve()):
        raise TrainingError(f"{run_folder} lies among the photos, where its previews would be learned, too; give another -o")
    if any(run_folder.glob("step_*.safetensors")) or (run_folder / "weights.safetensors").exists():
        raise TrainingError(
            f"{run_folder} holds a training; go on with --resume {shlex.quote(str(run_folder))}, or give another -o"
        )


def _chosen_config(options: argparse.Namespace, style_images: Sequence[str]) -> TrainConfig:
    """The training options of a command line; those that the command lacks keep their defaults."""
    photos = options.photos or os.environ.get("ALLAPRIMA_PHOTOS")
    if not style_images or not photos:
        raise TrainingError(
            "a PAINTING and --photos FOLDER are needed to train, or --resume RUN_FOLDER to go on. Photos of anything do, a "
            "thousand or more: your own, or COCO's 5,000 (cocodataset.org, 2017 Val images, 1 GB). ALLAPRIMA_PHOTOS names a "
            "folder once for all"
        )
    first, *more = style_images
    return _config_of(chosen(TrainConfig, options) | {"style_image": first, "more_style_images": more, "photos": photos})


def _config_of(values: dict[str, Any]) -> TrainConfig:
    """The training options with these values; file paths are made absolute, so that the training can go on from anywhere."""
    values["more_style_images"] = tuple(values.get("more_style_images", ()))
    for style_image in (values["style_image"], *values["more_style_images"]):
        if not Path(style_image).is_file():
            raise TrainingError(f"there is no painting {style_image}")
    values["vgg19"] = values.get("vgg19") or os.environ.get("ALLAPRIMA_VGG19")  # it may be unset or different at --resume
    for name in ("style_image", "photos", "init", "vgg19"):  # --resume may be called from another folder
        if values.get(name) and Path(values[name]).exists():
            values[name] = os.path.realpath(values[name])
    if values.get("photo_store"):
        values["photo_store"] = os.path.realpath(values["photo_store"])
    for name in ("preview", "more_style_images"):
        values[name] = tuple(map(os.path.realpath, values.get(name, ())))
    return TrainConfig(**values)


def _save_options(run_folder: Path, config: TrainConfig) -> None:
    from allaprima.inference.atomic import write_atomically

    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(run_folder / "options.json", config.to_json().encode() + b"\n")
    except OSError as error:
        raise TrainingError(f"{run_folder} cannot be written to: {error.strerror or error}") from error


def add_sweep(commands: Commands) -> None:
    text = (
        "Trains a quick preview for every pair of style weight and style size, and lays them out on one contact\n"
        "sheet. The same command goes on after an interruption. All other options are those of a quick training."
    )
    example = "allaprima sweep painting.jpg --photos ~/Pictures --style-weights 2,5,10 --style-sizes 256,384"
    parser = add_command(commands, "sweep", sweep, "compare style weights and sizes", text, example)
    parser.add_argument("style_image", metavar="PAINTING", help="the style image")
    parser.add_argument("--photos", required=True, metavar="FOLDER_OR_DATASET", help="as for train")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="(default: runs/PAINTING-sweep)")
    weights = f"(default: {TrainConfig.style_weight:g})"
    parser.add_argument(
        "--style-weights", type=several_of(float), default=[TrainConfig.style_weight], metavar="X,X", help=weights
    )
    sizes = f"(default: {TrainConfig.style_size_px})"
    parser.add_argument("--style-sizes", type=several_of(int), default=[TrainConfig.style_size_px], metavar="PX,PX", help=sizes)
    names = ("tier", "device", "precision", "steps", "batch_size", "size_px", "seed", "init", "vgg19")
    add_options(parser, TrainConfig, names)
    parser.add_argument("--preview", nargs="+", metavar="PHOTO", default=[], help="photos for the preview sheet")


def sweep(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from allaprima.training.quick import sweep as run_sweep

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise TrainingError("a sweep runs in one process; start it without torchrun")
    config = _chosen_config(options, [options.style_image])
    folder = Path(options.output or Path("runs", f"{Path(config.style_image).stem}-sweep"))
    try:
        sheet = run_sweep(config, options.style_weights, options.style_sizes, folder, Console(highlight=False))
    except Interrupted as error:
        raise Interrupted("stopped; the same command goes on") from error
    print(f"look at {sheet.resolve()}")
    return 0


def add_optimize(commands: Commands) -> None:
    text = (
        "The method that the networks are measured against (Gatys, Ecker, Bethge 2016): gradient descent on the picture's\n"
        "own pixels, with the losses of training. Minutes a picture; says how many. Ctrl-C keeps the best picture so far.\n"
        "Needs no training and no photos: any picture with any painting, or several."
    )
    example = "allaprima optimize photo.jpg painting.jpg --size 512 --snapshots 100,300,500"
    parser = add_command(commands, "optimize", optimize, "paint one picture the classic, slow way", text, example)
    parser.add_argument("content", metavar="CONTENT", help="the photo")
    parser.add_argument("styles", nargs="+", metavar="STYLE", help="a painting; several are blended")
    parser.add_argument("-o", "--output", metavar="FILE", help="(default: CONTENT_STYLE_optimized.png beside CONTENT)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_options(parser, OptimizeConfig)


def optimize(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from allaprima.training.classic.optimize import optimize as run_optimization

    config = OptimizeConfig(**chosen(OptimizeConfig, options))
    content = Path(config.content)
    names = "_".join(Path(style).stem for style in config.styles)
    output = Path(options.output or content.parent / f"{content.stem}_{names}_optimized.png")
    to_look_at = run_optimization(config, output, Console(highlight=False), options.overwrite)
    print(f"look at {to_look_at.resolve()}")
    return 0


def add_reconstruct(commands: Commands) -> None:
    text = (
        "Makes pictures out of noise until VGG-19 sees in them what it sees in IMAGE (Gatys, Ecker, Bethge 2016, Fig. 1):\n"
        "content from each layer's features, style from the Gram matrices of the layers up to each. One labelled sheet."
    )
    example = "allaprima reconstruct painting.jpg -o reconstructions.png"
    parser = add_command(commands, "reconstruct", reconstruct, "show what each layer of VGG-19 knows", text, example)
    parser.add_argument("image", metavar="IMAGE", help="a photo or a painting")
    parser.add_argument("-o", "--output", required=True, metavar="SHEET.png")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    add_options(parser, ReconstructConfig)


def reconstruct(options: argparse.Namespace) -> int:
    _need_training_packages()
    from rich.console import Console

    from allaprima.training.classic.reconstruct import reconstruct as run_reconstruction

    config = ReconstructConfig(**chosen(ReconstructConfig, options))
    output = Path(options.output)
    run_reconstruction(config, output, Console(highlight=False), options.overwrite)
    print(f"look at {output.resolve()}")
    return 0


def add_evaluate(commands: Commands) -> None:
    text = (
        "Content, style and total loss of one or more networks on photos they were not trained on, beside those of the\n"
        "classic optimization after a number of iterations, with the same loss weights on the same photos: a table,\n"
        "FILE.json, and FILE.png, the loss against iterations with the networks as horizontal lines (Johnson et al. 2016,\n"
        "Fig. 5). Or, with --film, how steady they paint films: by how many levels of 255 a picture differs from the one\n"
        "before it, moved along with the film."
    )
    example = "allaprima evaluate great_wave/realtime --style-image great_wave.jpg --photos heldout/"
    parser = add_command(commands, "evaluate", evaluate, "measure networks against the classic way", text, example)
    parser.add_argument("styles", nargs="+", metavar="STYLE_OR_ONNX", help="shipped styles or .onnx files, of one painting")
    parser.add_argument("--style-image", metavar="PAINTING", help="what they were trained on")
    parser.add_argument("--photos", metavar="FOLDER", help="photos they were not trained on")
    parser.add_argument(
        "--film", nargs="+", metavar="CLIP", help="films, instead of painting and photos; the styles may be any"
    )
    parser.add_argument("-o", "--output", default="evaluation.json", metavar="FILE.json", help="(default: evaluation.json)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_options(parser, EvaluateConfig)


def evaluate(options: argparse.Namespace) -> int:
    if not (options.film or (options.style_image and options.photos)):
        raise OptimizeError("give --style-image PAINTING and --photos FOLDER, or --film CLIP")
    if options.film and (options.style_image or options.photos):
        raise OptimizeError("--film compares with the film itself; leave out --style-image and --photos")
    if not options.film:
        _need_training_packages()
    from rich.console import Console

    from allaprima.inference.style.styles import PREFERRED_LIVE, find_style

    output, console = Path(options.output), Console(highlight=False)
    if output.suffix != ".json":
        raise OptimizeError(f"-o is {output}; a name that ends in .json is wanted")
    for path in (output,) if options.film else (output, output.with_suffix(".png")):
        if path.exists() and not options.overwrite:
            raise OptimizeError(f"{path} exists; give --overwrite to replace it, or another -o")
    networks = {}
    for style in options.styles:
        path = find_style(style, tiers=PREFERRED_LIVE) if options.film else find_style(style)
        name = f"{path.parent.name}/{path.stem}".removeprefix("/")
        networks[str(path) if name in networks else name] = path
    if options.film:
        from allaprima.inference.film.steadiness import evaluate_films, table

        print(table(evaluate_films([Path(film) for film in options.film], networks, output, console)))
        return 0
    from allaprima.training.studies import evaluate

    result = evaluate.evaluate(EvaluateConfig(**chosen(EvaluateConfig, options)), networks, output, console)
    print(evaluate.table(result))
    print(f"look at {output.with_suffix('.png').resolve()}")
    return 0


def add_export(commands: Commands) -> None:
    text = (
        "Writes the file only if ONNX Runtime paints with it what torch paints, on photos and at odd sizes, and prints how\n"
        "near it comes. image: float32 NCHW in [0, 1], sides multiples of 4, for every runtime; frame: uint8 NHWC of any\n"
        "size, the easiest to call, with optional inputs strength and keep_color. fp32 is for all, fp16 for GPUs, int8 for\n"
        "CPUs and phones."
    )
    example = "allaprima export runs/my_style --io frame --precision int8"
    parser = add_command(commands, "export", export, "turn a training into an .onnx file", text, example)
    what = "a run folder, a .safetensors file, or a mix: great_wave:0.6,starry_night:0.4"
    parser.add_argument("run_or_checkpoint", metavar="RUN_CHECKPOINT_OR_MIX", help=what)
    what = "(default: style.onnx in the run folder, style.frame.onnx, style.int8.onnx, ...)"
    parser.add_argument("-o", "--output", metavar="FILE.onnx", help=what)
    add_options(parser, Flavor)
    what = "to compare on, and for int8 to measure ranges on (default: those of the run, else three that come along)"
    parser.add_argument("--photos", metavar="FOLDER", help=what)
    what = "the painting, which int8 is compared with (default: the run's)"
    parser.add_argument("--style-image", metavar="PAINTING", help=what)
    add_options(parser, TrainConfig, ("vgg19",))
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def export(options: argparse.Namespace) -> int:
    _need_training_packages()
    from allaprima.inference.style.info import report_text
    from allaprima.inference.style.styles import mix_of, style_name
    from allaprima.training.conditional_instance_norm import save_mix
    from allaprima.training.export.export import Yardstick
    from allaprima.training.export.export import export as export_onnx

    source = Path(options.run_or_checkpoint)
    flavor = Flavor(**chosen(Flavor, options))
    weights = mix_of(options.run_or_checkpoint)
    base = source / "style" if source.is_dir() else style_name(options.run_or_checkpoint) if weights else source.with_suffix("")
    output = Path(options.output or f"{base}{flavor.suffix}.onnx")
    if output.exists() and not options.overwrite:
        raise StyleError(f"{output} exists; give --overwrite to replace it, or another -o")
    style_image = Path(options.style_image) if options.style_image else None
    yardstick = Yardstick(Path(options.photos) if options.photos else None, style_image, options.vgg19)
    with tempfile.TemporaryDirectory() as folder:
        if weights:
            source = Path(folder, "mix.safetensors")
            save_mix(source, weights)
        report = export_onnx(source, output, flavor, yardstick, weights)
    print(f"wrote {output}; {report_text(report)}")
    return 0


def add_import(commands: Commands) -> None:
    text = (
        "Takes a style file of pytorch/examples' fast_neural_style (.pth, .model) once, as weights of ours. Only numbers\n"
        "are read: nothing that the file's pickle asks to run is run."
    )
    example = "allaprima import candy.pth -o candy.safetensors"
    parser = add_command(commands, "import", import_style, "take over an old style file", text, example)
    parser.add_argument("old", metavar="OLD.pth", help="a state dict of pytorch/examples' TransformerNet")
    parser.add_argument("-o", "--output", required=True, metavar="NEW.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")


def import_style(options: argparse.Namespace) -> int:
    _need_training_packages()
    from allaprima.training.export.import_torch import import_torch

    output = Path(options.output)
    for path in (output, output.with_suffix(".json")):
        if path.exists() and not options.overwrite:
            raise StyleError(f"{path} exists; give --overwrite to replace it, or another -o")
    print(f"wrote {import_torch(Path(options.old), output)}; next: allaprima export {shlex.quote(str(output))}")
    return 0


def add_bench(commands: Commands) -> None:
    text = (
        "Without --training: seconds a picture of the classic optimization and of each network, Johnson's among them, in\n"
        "torch and in ONNX Runtime, beside the paper's (Johnson et al. 2016, Table 1). Minutes; downloads nothing.\n"
        "With --training: photos a second and peak memory of the training loop, beside the plain loop of peers."
    )
    example = "allaprima bench --sizes 256,640x480"
    parser = add_command(commands, "bench", bench, "measure speed side by side", text, example)
    sizes = [(256, 256), (512, 512), (1024, 1024)]
    what = "side of a square, or WIDTHxHEIGHT (default: 256,512,1024)"
    parser.add_argument("--sizes", type=_sizes, default=sizes, metavar="PX,PX", help=what)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("style_image", nargs="?", metavar="PAINTING", help="with --training")
    parser.add_argument("--photos", metavar="FOLDER", help="with --training")
    parser.add_argument("--training", action="store_true", help="measure the training loop")
    what = "turns of each network, or of each loop, 2 s long (default: 5)"
    parser.add_argument("--rounds", type=whole_number(1), default=5, metavar="N", help=what)
    names = ("tier", "device", "precision", "compile", "workers", "batch_size", "size_px", "vgg19")
    add_options(parser, TrainConfig, names)


def bench(options: argparse.Namespace) -> int:
    _need_training_packages()
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(TrainConfig)} | {
        "style_image": None,
        "photos": None,
    }
    names = ("style_image", "photos", "tier", "compile", "workers", "batch_size", "size_px", "vgg19")
    useless = [name for name in names if getattr(options, name) != defaults[name]] if not options.training else []
    if useless:
        raise TrainingError(f"{', '.join(flag(name) for name in useless)}: only with --training; sizes are given with --sizes")
    if options.training:
        from allaprima.training.studies.benchmark_loop import report

        print(report(_chosen_config(options, [options.style_image]), options.rounds))
    else:
        import json

        from allaprima.training.studies.benchmark import measure, table

        result = measure(options.sizes, options.rounds, options.device, options.precision)
        print(json.dumps(result, indent=1) if options.json else table(result))
    return 0


def _sizes(text: str) -> list[tuple[int, int]]:
    """Height and width of each size, multiples of the networks' stride."""
    sizes = []
    for part in text.split(","):
        width, _, height = part.partition("x")
        sides = [int(side) if side.isdecimal() else 0 for side in (height or width, width)]
        if any(side < 16 or side % 4 for side in sides):
            raise argparse.ArgumentTypeError(f"{part} is not a side, or WIDTHxHEIGHT, of multiples of 4 and at least 16")
        sizes.append((sides[0], sides[1]))
    return sizes


def _need_training_packages() -> None:
    import importlib.util

    missing = [
        name for name in ("torch", "safetensors", "onnx", "onnxscript", "matplotlib") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise TrainingError(f"training needs {', '.join(missing)}: {install_line('train')}")
