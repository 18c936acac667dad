"""Help texts, made from the dataclasses of the settings, and what people type instead of a flag."""

import argparse
import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sharpening import SharpeningError, __version__

MODES = ("demo", "resume", "evaluate", "infer", "live")
USUAL = (
    *("input", "output", "strength", "checkpoint", "overwrite", "device", "size"),
    *("config", "preset", "data.root", "data.crop", "data.batch-size", "data.workers"),
    *("teacher.weights", "teacher.enabled", "train.folder", "train.initial-weights"),
    *("train.epochs", "train.learning-rate", "train.precision"),
)
"""The settings that people use, in the order in which `--help` shows them."""
FOR_INFER = (
    *("input", "output", "strength", "size", "checkpoint", "overwrite", "compare", "device"),
    *("train.folder", "train.precision"),
)
"""What `--infer --help` shows beside the settings of `inference`."""
WIDTH = 100


class Setting(NamedTuple):
    """A field of the settings as people see it."""

    flag: str
    text: str
    default: Any
    kind: Any


def field_texts(cls: type) -> dict[str, str]:
    """Field -> the string under it, of a dataclass and of those it inherits from."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        lines = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body
        for above, below in itertools.pairwise(lines):
            if isinstance(above, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[above.target.id] = " ".join(ast.literal_eval(below.value).split())
    return texts


def settings_of(config: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of nested dataclasses, in their order."""
    texts, kinds = field_texts(type(config)), typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{field.name}.")
        else:
            flag = prefix + field.name.replace("_", "-")
            yield Setting(flag, texts[field.name], value, kinds[field.name])


def lines_of(setting: Setting) -> str:
    """A setting with the first sentence of its text, and its default."""
    group, _, name = setting.flag.rpartition(".")
    flag = f"--{setting.flag}"
    if setting.kind is bool and setting.default:
        flag = f"--{group}.no-{name}"
    elif typing.get_origin(setting.kind) is Literal:
        flag += f" {{{','.join(map(str, typing.get_args(setting.kind)))}}}"
    elif setting.kind is not bool:
        flag += f" {name.rpartition('-')[2].upper()}"
    text = re.split(r"(?<=\.)\s", setting.text)[0]
    if setting.kind is not bool and setting.default not in (None, ()):
        value = setting.default
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = f"{text.removesuffix('.')} ({shown})."
    indent = {"initial_indent": "  ", "subsequent_indent": " " * 8}
    return "\n".join(textwrap.wrap(f"{flag:<30}  {text}", WIDTH, break_on_hyphens=False, **indent))


def help_text(config: Any, arguments: Sequence[str]) -> str | None:
    """What `--help` prints: the modes and the usual settings, or all of `--infer`. None if there is
    no `--help` among the arguments."""
    if not {"--help", "-h"} & {*arguments}:
        return None
    all_settings = {setting.flag: setting for setting in settings_of(config)}
    if "--infer" in arguments:
        flags = (*FOR_INFER, *(f for f in all_settings if f.startswith("inference.")))
        head = ["usage: main_sharpening_script.py --infer --input PATH --output FOLDER [settings]"]
    else:
        head = ["usage: main_sharpening_script.py [mode] [settings]", ""]
        head += ["modes; without one, train on --data.root:"]
        head += [lines_of(all_settings[name]) for name in MODES]
        flags = USUAL
    shown = [lines_of(all_settings[flag]) for flag in flags]
    end = ["--infer --help: all about pictures and videos. --help-all: every setting."]
    return "\n".join([*head, "", "settings (default):", *shown, "", *end])


def understood(arguments: Sequence[str], config: Any) -> list[str]:
    """The arguments with `--input` where a path follows `--infer`; `--help-all` is tyro's help.
    Prints the version or the help of `config` and ends the process, if that is what they ask."""
    version = f"image-sharpening-distillation {__version__}"
    if text := version if "--version" in arguments else help_text(config, arguments):
        print(text)
        raise SystemExit(0)
    words = ["--help" if word == "--help-all" else word for word in arguments]
    if "--infer" not in words or any(word.startswith("--input") for word in words):
        return words
    place = words.index("--infer") + 1
    paths = list(itertools.takewhile(lambda word: not word.startswith("-"), words[place:]))
    if len(paths) > 1:
        raise SharpeningError(
            f"--infer takes one image, video or folder, not {len(paths)}: put them into a folder, "
            f"or give them one by one, such as --infer --input {Path(paths[0])}"
        )
    return [*words[:place], *(["--input"] if paths else []), *words[place:]]


def sharpen_arguments(arguments: Sequence[str] | None = None) -> list[str]:
    """The arguments of the command `sharpen INPUT -o OUTPUT` as those of `--infer`."""
    parser = argparse.ArgumentParser(prog="sharpen", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("input", help="image, video or folder")
    parser.add_argument("-o", "--output", default="sharpened", help="folder for the results")
    parser.epilog = "All other flags are those of --infer, such as --strength 0.7 or --device cpu."
    given, flags = parser.parse_known_args(arguments)
    return ["--infer", "--input", given.input, "--output", given.output, *flags]


def refuse_other_modes(config: Any, modes: dict[str, tuple[list[str], str]], mode: str) -> None:
    """Raise SharpeningError if a flag is given that is not for `mode`. `modes`: flag -> the modes
    that it is for, and what to do about it in another."""
    for flag, (wanted, advice) in modes.items():
        if getattr(config, flag) != getattr(type(config), flag) and mode not in wanted:
            names = " or ".join(wanted)
            raise SharpeningError(f"--{flag.replace('_', '-')} is for {names}: {advice}")
