"""The command line: turns errors into exit codes. The commands are defined next to their code, in inference/ and training/."""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

from allaprima.inference import commands as inference
from allaprima.models import __version__
from allaprima.models.errors import AllaPrimaError, Interrupted, without_secrets
from allaprima.training import commands as training

# In the order of --help.
COMMANDS = (
    *(inference.add_demo, inference.add_stylize, inference.add_video, inference.add_webcam),
    *(training.add_train, training.add_sweep, training.add_optimize, training.add_reconstruct, training.add_evaluate),
    *(training.add_export, inference.add_info, inference.add_web, training.add_import, training.add_bench),
    *(inference.add_styles, inference.add_doctor),
)

TEXTS = ("--title", "--painter", "--year", "--license")  # options that may be empty


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 something failed, 130 interrupted. Wrong arguments exit with 2.

    For `webcam`, an interrupt is a normal way to quit: 0.
    """
    _fill_standard_streams()
    for stream in (sys.stdout, sys.stderr):  # file names may hold characters that a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _print_log()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    for before, argument in zip(["", *arguments], arguments, strict=False):
        flag, _, value = argument.partition("=") if argument.startswith("--") and "=" in argument else (before, "", argument)
        if not value and flag not in TEXTS:  # Path("") would be the current folder
            parser.error(f"the argument {f'of {flag} ' if flag.startswith('-') else ''}is empty; a name is wanted")
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except AllaPrimaError as error:
        print(f"allaprima: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 1
    except ImportError as error:  # some modules turn a Ctrl-C during their import into one
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            print("allaprima: stopped", file=sys.stderr)
            return 130
        print(f"allaprima: what it needs cannot be loaded ({error}); README says how to install it", file=sys.stderr)
        return 1
    except MemoryError:
        print(f"allaprima: {command.__name__} needs more memory than there is; smaller pictures need less", file=sys.stderr)
        return 1
    except BrokenPipeError:  # | head
        sys.stderr.close()
        return 1
    except OSError as error:  # name too long, no permission, disk full
        text = f"{error.filename or options.command.__name__}: {error.strerror or error}"
        try:
            os.getcwd()
        except OSError:
            text = "the folder that this was started in is gone; go to one that is there"
        print(f"allaprima: {without_secrets(text)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("allaprima: stopped", file=sys.stderr)
        return 130


def _print_log() -> None:
    """Print our own log to standard error; other libraries' logs are left alone."""
    logger, handler = logging.getLogger("allaprima"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("allaprima: %(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def _fill_standard_streams() -> None:
    """Replace streams that were closed (`>&-`): otherwise, the next file opened could get a stream's number and its output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it gets the number that is free


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="allaprima",
        description="Fast neural style: train a network on one painting, then paint photos with it in one pass.",
        epilog="example: allaprima stylize photo.jpg --style great_wave\n'allaprima COMMAND --help' tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"allaprima {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
