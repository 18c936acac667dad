"""Settings in dataclasses: their limits, and their way into files and back."""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

from sharpening import SharpeningError
from sharpening.media_files import atomic_write

Limits = dict[str, tuple[float, float]]
"""Field -> lowest and highest value, both allowed."""


def check_limits(settings: Any, limits: Limits, prefix: str = "") -> None:
    """Raise ValueError if a number in `settings` is outside its limits; None is always inside.

    A field that is a tuple is checked number by number. `prefix` stands before the name in the
    message, as in the flag.
    """
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number <= high:
                wanted = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise ValueError(f"{prefix}{name} must be {wanted}: {value}")


def to_dict(config: Any) -> dict[str, Any]:
    """`dataclasses.asdict` with paths as strings, which `weights_only` checkpoints can hold."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: text(value) for name, value in items}

    def text(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(text(each) for each in value)
        return str(value) if isinstance(value, Path) else value

    return dataclasses.asdict(config, dict_factory=plain)


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """The dataclass `cls` from what `to_dict` made of one; ValueError if it does not fit."""
    kinds = typing.get_type_hints(cls)
    if unknown := values.keys() - kinds.keys():
        raise ValueError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}")

    def restore(kind: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(kind):
            return from_dict(kind, value)
        if isinstance(value, list | tuple):  # JSON knows no tuples
            kinds = [tuple, *(typing.get_args(k) for k in (kind, *typing.get_args(kind)))]
            paths = any(isinstance(k, tuple) and k[:1] == (Path,) and ... in k for k in kinds)
            return tuple(Path(each) for each in value) if paths else tuple(value)
        is_path = kind is Path or Path in typing.get_args(kind)
        return Path(value) if isinstance(value, str) and is_path else value

    return cls(**{name: restore(kinds[name], value) for name, value in values.items()})


def write_settings(path: Path, config: Any) -> None:
    """`config` as a file that people can read and `read_settings` takes back, without what belongs
    to a single start."""
    of_this_start = {"config", "resume", "overwrite", "checkpoint"}
    values = {name: v for name, v in to_dict(config).items() if name not in of_this_start}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def read_settings(cls: type, path: Path) -> Any:
    """The dataclass `cls` from a file of `write_settings`; what is left out has its default."""
    try:
        return from_dict(cls, json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise SharpeningError(
            f"{path} cannot be read ({error.strerror}): check --config"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise SharpeningError(
            f"{path} is no file of settings ({error}): give the config.json of a run as --config"
        ) from error


def stored_config(cls: type, values: dict[str, Any], path: Path) -> Any:
    """`from_dict` of the settings in the checkpoint `path`."""
    try:
        return from_dict(cls, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise SharpeningError(
            f"the settings in {path} do not fit this version of the script ({error}): use the "
            "version that wrote it, or train again"
        ) from error


TEST_IMAGES = ("root", "blurred_names", "sharp_names", "test_share")
"""Settings of `data` that, with those of `degradation`, say what the test images are."""


def differing(config: Any, other: Any) -> str:
    """The settings of the test images that `config` has otherwise than `other`."""
    ours, theirs = (
        {f"data.{name}": getattr(each.data, name) for name in TEST_IMAGES}
        | {f"degradation.{k}": v for k, v in dataclasses.asdict(each.degradation).items()}
        for each in (config, other)
    )
    return ", ".join(f"{name} {value}" for name, value in ours.items() if value != theirs[name])
