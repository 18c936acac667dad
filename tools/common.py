"""What the tools share: their exit status, and how they choose images."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

from main_sharpening_script import DataConfig
from sharpening import SharpeningError
from sharpening.image_pairs import Pair, find_pairs
from sharpening.synthetic_blur import DegradationConfig

Item = TypeVar("Item")

any_camera = functools.partial(DegradationConfig, response_power=1.0)
"""Blur to measure on: all responses are equally likely, whatever the default for training is."""


def exit_status(work: Callable[[], Any]) -> int:
    """What `work` returns, 0 for None. A SharpeningError becomes 1 and a line without traceback."""
    try:
        return work() or 0
    except SharpeningError as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 1


def run_tool(tool: Callable[[Any], Any], config_class: type, description: str | None) -> int:
    """`tool` with the command line as a `config_class` -> exit status."""
    return exit_status(lambda: tool(tyro.cli(config_class, description=description)))


def run_beside_script(
    tool: Callable[[Any, list[str]], Any],
    config_class: type,
    description: str | None,
    arguments: Sequence[str],
) -> Any:
    """`tool` with its own settings and the other flags, which are those of the script."""
    if {"-h", "--help"} & {*arguments}:
        print(f"{description}\nOther flags are those of main_sharpening_script.py.\n")
        tyro.cli(config_class, args=["--help"])
    own, flags = tyro.cli(config_class, args=arguments, return_unknown_args=True, add_help=False)
    return tool(own, flags)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of `items`, or all if there are fewer: evenly spread, first and last among them."""
    if count < 1:
        raise SharpeningError(f"at least one is needed: {count}")
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[place] for place in places.round().astype(int)]


def all_pairs(folder: Path, data: DataConfig) -> list[Pair]:
    """The pairs below `folder`; sharp images without a blurred one are among them."""
    return find_pairs(folder, data.blurred_names, data.sharp_names)


def real_pairs(folder: Path, data: DataConfig) -> list[Pair]:
    """The pairs below `folder` whose blur is real. Raises SharpeningError if there are none."""
    pairs = [pair for pair in all_pairs(folder, data) if pair.blurry]
    if not pairs:
        raise SharpeningError(f"{folder} holds no pairs of blurred and sharp images")
    return pairs


def chosen_pairs(folder: Path, data: DataConfig, count: int) -> list[Pair]:
    """`count` of the `real_pairs`, evenly spread."""
    return spread(real_pairs(folder, data), count)
