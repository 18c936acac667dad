"""The recipes: each runs to its end, and every command in it has flags that exist.

They run with a `python` that only notes its arguments; these are then parsed as the script and the
tools would.
"""

import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tyro

import main_sharpening_script as script
from sharpening import command_line

RECIPES = sorted((script.HERE / "recipes").glob("*.sh"))
ARGUMENTS = {"model_card": 5, "nafnet": 4, "optimizers": 3, "pareto": 0, "readme": 4}
ARGUMENTS |= {"ablation": 0, "benchmarks": 0, "pictures": 1, "ship_student": 1, "demo_teacher": 1}
ARGUMENTS |= {"training_rate": 2, "ingredients": 4, "live": 0, "validation": 1, "gpu_quarter": 1}
ARGUMENTS |= {"gpu_student": 2, "automatic": 0, "shared_inference": 0, "synthetic_trials": 2}
ARGUMENTS |= {"idea_trials": 2, "whole_image": 1}
"""Recipe -> number of arguments that are files or folders; 3 for the others."""
STANDARD = str(script.SHIPPED_STUDENTS["standard"])
NOTE = """#!/usr/bin/env bash
[ "$1" = -c ] && { [[ $2 = while* ]] && exec sleep 60; exit 0; }
{ flock 9; printf '%s\\0' "$@" >&9; printf '\\n' >&9; } 9>> "$COMMANDS"
"""


def commands(recipe: Path, folder: Path) -> list[list[str]]:
    """The arguments of every call of Python in a recipe."""
    shutil.copytree(recipe.parent, folder / "recipes")
    (folder / "runs").mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(NOTE)
    (folder / "bin" / "python").chmod(0o755)
    noted = folder / "commands"
    noted.touch()
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    arguments = [STANDARD] * ARGUMENTS.get(recipe.stem, 3)
    done = subprocess.run(
        ["bash", folder / "recipes" / recipe.name, *arguments],
        env=environment | {"COMMANDS": str(noted)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in noted.read_text().split("\n") if line]


@functools.cache
def parse(words: tuple[str, ...]) -> None:
    """Parse a command line as its program would; SystemExit or an error if it does not fit."""
    program, *flags = words
    if "--train.initial-weights" in flags:  # weights that the recipe itself would make
        flags[flags.index("--train.initial-weights") + 1] = STANDARD
    if program.startswith("tools/"):
        module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
        (own,) = (
            value
            for name, value in vars(module).items()
            if name.endswith("Config") and value.__module__ == module.__name__
        )
        if not hasattr(module, "run_beside_script"):
            tyro.cli(own, args=flags)
            return
        _, flags = tyro.cli(own, args=flags, return_unknown_args=True, add_help=False)
    script.read_config(flags)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_command_of_a_recipe_has_flags_that_exist(recipe, tmp_path):
    found = [words for words in commands(recipe, tmp_path) if words[0].endswith(".py")]
    assert found or recipe.stem == "pareto"
    for words in found:
        parse(tuple(words))


PAGES = ["README.md", "model_checkpoints/MODEL_CARD.md"]
PAGES += [f"docs/{path.name}" for path in sorted((script.HERE / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_recipes_and_tools_that_exist(page):
    named = re.findall(r"\b(?:recipes|tools)/\w+\.(?:sh|py)\b", (script.HERE / page).read_text())
    assert [place for place in named if not (script.HERE / place).is_file()] == []


def shell_commands(page: str) -> list[list[str]]:
    """The lines of the bash blocks of a page, and the commands in its running text, as words."""
    text = (script.HERE / page).read_text()
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.split("\n")
    ]
    lines += re.findall(r"`((?:python|torchrun) [^`]+\.py[^`]*)`", text)
    lines = [re.sub(r"\[[^]]*\]", "", line) for line in lines]  # what may be left out
    words = [shlex.split(" ".join(line.split()), comments=True) for line in lines]
    return [each[each.index("&&") + 1 :] if "&&" in each else each for each in words if each]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_parses(page):
    for words in shell_commands(page):
        place = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
        if place is None or "--resume" in words:  # pytest and pip, and what needs a run
            continue
        assert (script.HERE / words[place]).is_file(), words
        parse(tuple(words[place:]))


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_and_link_of_a_page_exists(page):
    text = (script.HERE / page).read_text()
    links = re.findall(r"\]\(([^)#\s]+)", text)
    folder = (script.HERE / page).parent
    assert [p for p in links if not p.startswith("http") and not (folder / p).exists()] == []
    flags = {f"--{setting.flag}" for setting in command_line.settings_of(script.Config())}
    groups = "data|degradation|student|teacher|loss|train|inference"
    named = set(re.findall(rf"--(?:{groups})\.[\w-]+", text))
    assert {flag for flag in named if flag.replace(".no-", ".") not in flags} == set()
