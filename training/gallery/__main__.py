"""Trains the styles of checkpoints/gallery.toml and ships those that improved. For maintainers of the styles:

python -m allaprima.training.gallery --paintings DIR --photos DIR --heldout DIR                # all together, at full length
python -m allaprima.training.gallery --paintings DIR --photos DIR --heldout DIR --minutes 60   # the worst first
python -m allaprima.training.gallery --paintings DIR --photos DIR --heldout DIR --from-base    # as they are in the base
python -m allaprima.training.gallery --paintings DIR --photos DIR --heldout DIR --from-shipped --steps 100    # go on a little
"""

import argparse
from pathlib import Path

from rich.console import Console

from allaprima.models.options import choices_of
from allaprima.training.config import TrainConfig
from allaprima.training.gallery.train import (
    config_of,
    from_shipped,
    read_gallery,
    ship_base,
    train_for,
    train_gallery,
    write_sheet,
    write_table,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--paintings", "--photos", "--heldout"):
        parser.add_argument(option, type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--style", nargs="+", metavar="NAME", help="instead of all")
    parser.add_argument("--tier", choices=choices_of(TrainConfig, "tier"), default=TrainConfig.tier)
    parser.add_argument("--minutes", type=float, metavar="M", help="spend so long; the worst style first")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--from-shipped", action="store_true", help="start from what is shipped, at a lower learning rate")
    start.add_argument("--from-base", action="store_true", help="ship what the base has, without training")
    for name in ("steps", "batch_size", "size_px", "seed"):
        default = getattr(TrainConfig, name)
        option = f"--{name.removesuffix('_px').replace('_', '-')}"
        parser.add_argument(option, dest=name, type=int, default=default, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--photo-store", metavar="FOLDER", help="as for allaprima train")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/gallery"), metavar="FOLDER")
    arguments = parser.parse_args()
    gallery = read_gallery()
    unknown = sorted(set(arguments.style or ()) - gallery.keys())
    if unknown:
        parser.error(f"gallery.toml has no {', '.join(unknown)}")
    options = {name: getattr(arguments, name) for name in ("tier", "steps", "batch_size", "size_px", "seed", "photo_store")}
    chosen = {
        name: config_of(name, entry, arguments.paintings, photos=str(arguments.photos.resolve()), **options)
        for name, entry in gallery.items()
        if not arguments.style or name in arguments.style
    }
    output = Console(highlight=False)
    if arguments.from_base:
        ship_base(chosen, arguments.heldout)
    elif arguments.minutes:
        train_for(arguments.minutes, chosen, arguments.output, arguments.heldout, output)
    else:
        if arguments.from_shipped:
            chosen = {name: from_shipped(name, config) for name, config in chosen.items()}
        train_gallery(chosen, arguments.output, arguments.heldout, output)
    write_table()
    write_sheet()
