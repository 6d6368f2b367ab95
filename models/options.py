"""Options as fields of a dataclass: default, bounds, choices and help are stated once, and the command line's options and
the checks are made from them. Standard library only, so that --help is instant."""

import argparse
import dataclasses
import math
import numbers
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from allaprima.models.contract import LEAST_STROKES, MAX_STROKES, size_px
from allaprima.models.errors import AllaPrimaError

Commands = argparse._SubParsersAction  # argparse has no public name for it
FIELD = "option"  # its place in a field's metadata


@dataclass(frozen=True)
class Option:
    """What the command line needs to know of a field, besides its name, type and default.

    Attributes:
        help: one line; the default is added to it.
        metavar: the placeholder for the value in --help.
        least: lower bound of a number, or of each of several; None means 0. Floats must be finite, too.
        most: upper bound of a number.
        multiple_of: for whole numbers, with the reason.
        choices: allowed values, of each where there are several.
        default_text: what --help says of the default, if not the value itself.
        read: parses the text, if the type alone is not enough; raises `argparse.ArgumentTypeError`.
        alone: the value if the option is given without one.
        named: the option's name, if it is not the field's.
    """

    help: str = ""
    metavar: str | None = None
    least: float | None = None
    most: float = math.inf
    multiple_of: tuple[int, str] | None = None
    choices: tuple[Any, ...] = ()
    default_text: str | None = None
    read: Callable[[str], Any] | None = None
    alone: Any = None
    named: str | None = None


def option(default: Any, help: str = "", metavar: str | None = None, **more: Any) -> Any:
    """A dataclass field with a default that is also an option of the command line; `more` goes to `Option`."""
    return dataclasses.field(default=default, metadata={FIELD: Option(help, metavar, **more)})


def flag(field: str) -> str:
    """The command-line option of a field."""
    return "--" + field.removesuffix("_px").removesuffix("_s").replace("_", "-")


def options_of(config: Any) -> dict[str, Option]:
    """The options of a dataclass, by their fields' names."""
    return {field.name: field.metadata[FIELD] for field in dataclasses.fields(config) if FIELD in field.metadata}


def choices_of(config: Any, name: str) -> tuple[Any, ...]:
    """The allowed values of a field; empty if it is free."""
    return options_of(config).get(name, Option()).choices


def check(config: Any, error: type[AllaPrimaError]) -> None:
    """Check that all options of a dataclass instance have allowed values.

    Raises:
        error: one does not; the message says which, its value and what is wanted.
    """
    for field in dataclasses.fields(config):
        about, value = field.metadata.get(FIELD), getattr(config, field.name)
        if about is None or value == field.default:
            continue
        wrong = _fault(about, kind_of(field.type), value)
        if wrong:
            raise error(f"{about.named or flag(field.name)} is {wrong}")


def _fault(about: Option, kind: type, value: Any) -> str | None:
    parts = value if isinstance(value, tuple) else (value,)
    shown = ",".join(map(str, parts))
    if about.choices and not set(parts) <= set(about.choices):
        return f'"{shown}"; one of {", ".join(map(str, about.choices))} is wanted'
    if kind is bool and not (isinstance(value, int) or type(value).__name__ == "bool"):  # NumPy's
        return f"{value!r}; True or False is wanted"
    if kind is int and not all(isinstance(part, numbers.Integral) and not isinstance(part, bool) for part in parts):
        return f"{value!r}; a whole number is wanted"
    least = about.least or 0
    if kind is int and any(part < least for part in parts):
        return f"{shown}; at least {least:g} is needed"
    if kind is float and not all(isinstance(part, numbers.Real) and least <= float(part) < math.inf for part in parts):
        wanted = "finite numbers of at least {} are" if isinstance(value, tuple) else "a finite number of at least {} is"
        return f"{shown}; {wanted.format(f'{least:g}')} needed"
    if kind in (int, float) and any(part > about.most for part in parts):
        return f"{shown}; at most {about.most:g} is wanted"
    if about.multiple_of and any(part % about.multiple_of[0] for part in parts):
        step, why = about.multiple_of
        return f"{shown}; a multiple of {step} is needed{f' ({why})' if why else ''}"
    return None


def kind_of(annotation: Any) -> type:
    """int, float, bool or str: the type of a field's value, or of each of several."""
    for kind in (*typing.get_args(annotation), annotation):
        if kind in (int, float, bool, str):
            return kind
    return str


def add_options(
    parser: argparse.ArgumentParser,
    config: Any,
    names: Iterable[str] | None = None,
    defaults: Mapping[str, tuple[Any, str]] | None = None,
) -> None:
    """Give a parser the options of a dataclass: all, or those named.

    Args:
        defaults: replace the dataclass's for this command, each with what --help says of it.
    """
    fields = {field.name: field for field in dataclasses.fields(config) if FIELD in field.metadata}
    for name in fields if names is None else names:
        field, about = fields[name], fields[name].metadata[FIELD]
        several, kind = typing.get_origin(field.type) is tuple, kind_of(field.type)
        default, text = (defaults or {}).get(name, (field.default, about.default_text))
        shown = ",".join(map(str, default)) if several else default
        text = text or ("" if shown in (None, "") else f"{shown:g}" if isinstance(shown, float) else str(shown))
        more: dict[str, Any] = {"dest": name, "default": default}
        more["help"] = f"{about.help} (default: {text})".strip() if text else about.help
        if about.alone is not None:
            more |= {"nargs": "?", "const": about.alone}
        flags = about.named or flag(name)
        if kind is bool:
            parser.add_argument(flags, action="store_true", **more | {"help": about.help})
        elif several:
            parser.add_argument(flags, type=several_of(kind), metavar=about.metavar, **more)
        elif about.choices:
            parser.add_argument(flags, type=kind, choices=about.choices, **more)
        else:
            parser.add_argument(flags, type=_reader(about, kind), metavar=about.metavar, **more)


def _reader(about: Option, kind: type) -> Callable[[str], Any]:
    """A function that reads a value of this kind and checks its bounds."""
    if about.read:
        return about.read
    least = about.least or 0
    if not about.multiple_of and kind is int:
        return whole_number(int(least), None if about.most == math.inf else int(about.most))
    if kind is float and about.most < math.inf:
        return number(least, about.most)

    def read(text: str) -> Any:
        value = kind(text)
        if wrong := _fault(about, kind, value):
            raise argparse.ArgumentTypeError(wrong)
        return value

    read.__name__ = kind.__name__  # for argparse's "invalid int value"
    return read


def add_command(
    commands: Commands, name: str, command: Callable[[argparse.Namespace], int], summary: str, text: str, example: str
) -> argparse.ArgumentParser:
    """A command's parser, still without options; `allaprima.main` calls the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{text}",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def chosen(config: type, options: argparse.Namespace) -> dict[str, Any]:
    """A config's fields as given on the command line; fields that the command has no option for are left out."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(config) if hasattr(options, field.name)}


def several_of(kind: type) -> Callable[[str], tuple[Any, ...]]:
    """A function that reads comma-separated values."""

    def read(text: str) -> tuple[Any, ...]:
        values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        if not values:
            raise argparse.ArgumentTypeError(f"{text} holds none; one at least is wanted")
        return values

    read.__name__ = f"{kind.__name__},..."
    return read


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A function that reads a whole number in a range."""

    def read(text: str) -> int:
        value = int(text) if text.lstrip("+-").isdecimal() else None
        if value is None or value < least or (most is not None and value > most):
            wanted = f"{least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not a whole number, {wanted}")
        return value

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """A function that reads a number in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least:g} to {most:g}")
        return value

    return read


def strokes(text: str) -> float:
    """Reads the size of strokes; 0 for "fine"."""
    return 0.0 if text == "fine" else number(LEAST_STROKES, MAX_STROKES)(text)


def size(text: str) -> tuple[int, int]:
    """Reads a width and a height in pixels, "640x480"."""
    try:
        return size_px(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size like 640x480 is wanted, got {text!r}") from None
