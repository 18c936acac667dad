"""The house: imports run one way, and the script, its sections and functions stay small."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import main_sharpening_script as script

SCRIPT = Path(script.__file__)
ROOMS = sorted((script.HERE / "sharpening").glob("*.py"))
TOOLS = sorted((script.HERE / "tools").glob("*.py"))
LINES_OF_SCRIPT, LINES_OF_SECTION, LINES_OF_FUNCTION, LINES_OF_TRAIN = 2100, 350, 60, 90


def module_name(path: Path) -> str:
    parts = path.relative_to(script.HERE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in (SCRIPT, *ROOMS, *TOOLS)}


def imported(path: Path) -> set[str]:
    """Modules of this project that a file imports anywhere in it, also inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: write the whole name"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & MODULES.keys()) or {node.module}
    return found & MODULES.keys()


def circles(graph: dict[str, set[str]]) -> Iterator[tuple[str, ...]]:
    """Each chain of imports that comes back to a module of it."""

    def follow(chain: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name in sorted(graph[chain[-1]]):
            if name in chain:
                yield (*chain[chain.index(name) :], name)
            elif name not in done:
                yield from follow((*chain, name))
        done.add(chain[-1])

    done: set[str] = set()
    for start in sorted(graph):
        if start not in done:
            yield from follow((start,))


def sections(lines: list[str]) -> dict[str, int]:
    """Title of each section -> its lines, from its banner to the next one."""
    rule = "# " + "-" * 98
    banners = (i for i in range(len(lines) - 2) if lines[i] == lines[i + 2] == rule)
    starts = [i for i in banners if lines[i + 1].startswith("# ")]
    ends = [*starts[1:], len(lines)]
    titles = [lines[start + 1].removeprefix("# ") for start in starts]
    return {t: end - start for t, start, end in zip(titles, starts, ends, strict=True)}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function and method with its lines, decorators not counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_the_measures_measure():
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [("b", "c", "b")]
    assert list(circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})) == []
    rule = "# " + "-" * 98
    text = ["x = 1", rule, "# One", rule, "y = 2", rule, "# Two", rule]
    assert sections(text) == {"One": 4, "Two": 3}
    assert "sharpening.runtime" in imported(SCRIPT) and "sharpening" in imported(SCRIPT)


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.name)
def test_a_room_imports_neither_the_script_nor_a_tool(path):
    upwards = [name for name in imported(path) if not name.startswith("sharpening")]
    assert upwards == []


def test_the_script_imports_no_tool():
    assert not [name for name in imported(SCRIPT) if name.startswith("tools")]


def test_imports_have_no_circle():
    assert list(circles({name: imported(path) for name, path in MODULES.items()})) == []


def test_the_script_and_its_parts_stay_small(capsys):
    lines = SCRIPT.read_text().splitlines()
    found = sections(lines)
    with capsys.disabled():
        print(f"\n{len(lines):5} {SCRIPT.name}")
        for title, count in found.items():
            print(f"{count:9} {title}")
        for path in ROOMS:
            print(f"{len(path.read_text().splitlines()):5} sharpening/{path.name}")
    assert len(lines) <= LINES_OF_SCRIPT
    assert len(found) >= 12
    assert {t: n for t, n in found.items() if n > LINES_OF_SECTION} == {}
    assert dict(functions(SCRIPT))["train"] <= LINES_OF_TRAIN


@pytest.mark.parametrize("path", [SCRIPT, *ROOMS, *TOOLS], ids=lambda path: path.name)
def test_functions_are_short(path):
    limits = {"train": LINES_OF_TRAIN} if path == SCRIPT else {}
    long = {n: k for n, k in functions(path) if k > limits.get(n, LINES_OF_FUNCTION)}
    assert long == {}


def test_every_section_is_in_the_list_at_the_top():
    listed = ast.get_docstring(ast.parse(SCRIPT.read_text()))
    for title in sections(SCRIPT.read_text().splitlines()):
        assert title.partition(":")[0] in listed, title
