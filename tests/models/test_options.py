import argparse
from dataclasses import dataclass

import numpy as np
import pytest

from allaprima.inference.options import StylizeOptions
from allaprima.models.errors import OptimizeError, StyleError, TrainingError
from allaprima.models.options import add_options, check, chosen, options_of
from allaprima.models.options import option as an_option
from allaprima.training.config import EvaluateConfig, OptimizeConfig, ReconstructConfig, TrainConfig

CONFIGS = {
    TrainConfig: {"style_image": "p", "photos": "f"},
    OptimizeConfig: {"content": "c", "styles": ("s",)},
    ReconstructConfig: {"image": "i"},
    EvaluateConfig: {"style_image": "s", "photos": "f"},
}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_a_command_line_without_options_gives_the_defaults(config):
    parser = argparse.ArgumentParser()
    add_options(parser, config)
    found = chosen(config, parser.parse_args([]))
    assert set(found) == set(options_of(config))
    assert config(**CONFIGS[config], **found) == config(**CONFIGS[config])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_default_is_valid_and_every_option_has_a_help_text(config):
    config(**CONFIGS[config])
    for name, about in options_of(config).items():
        assert about.help or about.choices, name


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (TrainConfig, {"steps": 0}, "--steps is 0; at least 1 is needed"),
        (TrainConfig, {"steps": 2.5}, "--steps is 2.5; a whole number is wanted"),
        (TrainConfig, {"size_px": 100}, r"--size is 100; a multiple of 16 is needed \(VGG-19 halves it four times\)"),
        (TrainConfig, {"steady": 2.0}, "--steady is 2.0; at most 1 is wanted"),
        (TrainConfig, {"tv_weight": float("inf")}, "--tv-weight is inf; a finite number of at least 0 is needed"),
        (TrainConfig, {"style_weight": "much"}, "--style-weight is much; a finite number of at least 0 is needed"),
        (TrainConfig, {"tier": "best"}, '--tier is "best"; one of quality, realtime is wanted'),
        (OptimizeConfig, {"style_layer_weights": (1.0, -1.0)}, "finite numbers of at least 0 are needed"),
        (OptimizeConfig, {"bits": 12}, '--bits is "12"; one of 8, 16 is wanted'),
        (ReconstructConfig, {"optimizer": "x"}, '--optimizer is "x"; one of lbfgs, adam is wanted'),
        (ReconstructConfig, {"pooling": "min"}, '--pooling is "min"; one of max, avg is wanted'),
        (EvaluateConfig, {"optimizer": "x"}, '--optimizer is "x"; one of lbfgs, adam is wanted'),
        (EvaluateConfig, {"sizes_px": (256, 100)}, "a multiple of 16 is needed"),
        (EvaluateConfig, {"inits": ("noise", "x")}, '--inits is "noise,x"; one of noise, content is wanted'),
        (EvaluateConfig, {"against": ()}, "--against is empty; one at least is needed"),
        (EvaluateConfig, {"limit": -1}, "--limit is -1; at least 0 is needed"),
    ],
)
def test_what_is_not_allowed_is_named(config, values, message):
    with pytest.raises(TrainingError if config is TrainConfig else OptimizeError, match=message):
        config(**CONFIGS[config], **values)


def test_options_of_every_kind_are_read():
    @dataclass(frozen=True)
    class Config:
        whole: int | None = an_option(None, "how many", "N", least=2)
        weight: float = an_option(1.0, "how much", "X")
        names: tuple[str, ...] = an_option(("a",), "which", "A,B")
        sizes_px: tuple[int, ...] = an_option((), "how large", "PX,PX")
        kind: int = an_option(8, choices=(8, 16))
        loud: bool = an_option(False, "whether")

    parser = argparse.ArgumentParser()
    add_options(parser, Config)
    line = ["--whole", "3", "--weight", "2", "--names", "x,y", "--sizes", "1,2", "--kind", "16", "--loud"]
    found = Config(**chosen(Config, parser.parse_args(line)))
    assert found == Config(3, 2.0, ("x", "y"), (1, 2), 16, True)
    check(found, TrainingError)
    assert "(default: a)" in parser.format_help()


def test_numpys_numbers_are_accepted():
    found = StylizeOptions(
        strength=np.float32(0.5), max_side_px=np.int64(64), match_luminance=np.bool_(True), strokes=np.float64(2)
    )
    assert (found.strength, found.max_side_px, found.strokes) == (0.5, 64, 2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"match_luminance": "no"}, "--match-luminance is 'no'; True or False is wanted"),
        ({"max_side_px": True}, "--max-side is True; a whole number is wanted"),
        ({"strokes": 0.01}, r"--strokes is 0\.01; at least 0\.1 is needed, or 0 for one pass"),
        ({"strength": "1"}, "--strength is 1; a finite number"),
    ],
)
def test_options_from_python_are_checked_like_those_of_the_command_line(values, message):
    with pytest.raises(StyleError, match=message):
        StylizeOptions(**values)
