"""What the tools share: how they end, and how they choose from many."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

from main_sharpening_script import (
    DataConfig,
    DegradationConfig,
    Pair,
    SharpeningError,
    find_pairs,
)

Item = TypeVar("Item")

any_camera = functools.partial(DegradationConfig, response_power=1.0)
"""Blur to measure on: all responses alike, whatever the default for training."""


def exit_status(work: Callable[[], Any]) -> int:
    """What `work` returns, None counting as 0; 1 and a line without traceback where it fails for a
    reason that the user can mend."""
    try:
        return work() or 0
    except SharpeningError as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        return 1


def run_tool(tool: Callable[[Any], Any], config_class: type, description: str | None) -> int:
    """`tool` with the command line as a `config_class` -> exit status."""
    return exit_status(lambda: tool(tyro.cli(config_class, description=description)))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of `items`, or all if there are fewer: evenly spread, first and last among them."""
    if count < 1:
        raise SharpeningError(f"at least one is needed: {count}")
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[place] for place in places.round().astype(int)]


def real_pairs(folder: Path, data: DataConfig) -> list[Pair]:
    """The pairs below `folder` whose blur is real; there must be some."""
    pairs = [pair for pair in find_pairs(folder, data) if pair.blurry]
    if not pairs:
        raise SharpeningError(f"{folder} holds no pairs of blurred and sharp images")
    return pairs


def chosen_pairs(folder: Path, data: DataConfig, count: int) -> list[Pair]:
    """`count` of the `real_pairs`, evenly spread."""
    return spread(real_pairs(folder, data), count)
