"""Quality against time: `python tools/pareto.py measured.json -o pareto.png`.

measured.json holds one JSON object a line with `name`, `psnr` (dB) and `ms` (milliseconds per
frame); `ms_p10`, `ms_p90` and `group` (one colour each) are drawn where given. What nothing beats
in both is joined by a line. Needs matplotlib.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sharpening import SharpeningError
from sharpening.media_files import atomic_write
from sharpening.runtime import require_package
from tools.common import run_tool


@dataclass(frozen=True)
class ParetoConfig:
    measured: tyro.conf.Positional[Path]
    """File of JSON lines."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("pareto.png")
    """The picture to write; its suffix says the format."""
    title: str = ""
    """Above the plot: test set, size and device."""


def read_points(path: Path) -> list[dict[str, Any]]:
    """The measured lines, checked."""
    if not path.is_file():
        raise SharpeningError(f"there is no {path}: it holds one JSON object a line")
    points = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            point = json.loads(line)
            points.append({**point, "psnr": float(point["psnr"]), "ms": float(point["ms"])})
            str(point["name"])
        except (ValueError, KeyError, TypeError) as error:
            raise SharpeningError(
                f"{path}, line {number}: needs an object with name, psnr and ms ({error})"
            ) from error
    if not points:
        raise SharpeningError(f"{path} holds no measurement")
    return points


def frontier(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other beats in both time and quality, fastest first."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point["ms"], -point["psnr"])):
        if not best or point["psnr"] > best[-1]["psnr"]:
            best.append(point)
    return best


def draw(points: list[dict[str, Any]], title: str) -> Any:
    """The plot as a matplotlib figure."""
    require_package("matplotlib").use("Agg")
    plt = require_package("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    best = frontier(points)
    axes.plot([p["ms"] for p in best], [p["psnr"] for p in best], color="0.7", zorder=1)
    groups = dict.fromkeys(point.get("group", "") for point in points)
    for group in groups:
        members = [point for point in points if point.get("group", "") == group]
        ms, quality = [p["ms"] for p in members], [p["psnr"] for p in members]
        low = [p["ms"] - min(p["ms"], p.get("ms_p10", p["ms"])) for p in members]
        high = [max(p["ms"], p.get("ms_p90", p["ms"])) - p["ms"] for p in members]
        axes.errorbar(ms, quality, xerr=[low, high], fmt="o", capsize=3, label=group, zorder=2)
    for point in points:
        place = {"xytext": (7, -12), "textcoords": "offset points", "fontsize": 9}
        axes.annotate(point["name"], (point["ms"], point["psnr"]), **place)
    axes.set(xscale="log", xlabel="milliseconds per frame", ylabel="PSNR, dB", title=title)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.margins(0.15)
    axes.grid(which="both", alpha=0.25)
    if any(groups):
        axes.legend(frameon=False)
    return figure


def main(config: ParetoConfig) -> None:
    points = read_points(config.measured)
    with atomic_write(config.output) as temporary:
        draw(points, config.title).savefig(temporary, dpi=150)
    best = frontier(points)
    print(f"{'name':<28} {'ms':>9} {'PSNR dB':>8}  unbeaten")
    for point in sorted(points, key=lambda point: point["ms"]):
        mark = "yes" if point in best else ""
        print(f"{point['name']:<28} {point['ms']:>9.2f} {point['psnr']:>8.2f}  {mark}")
    names = [point["name"] for point in best]
    print(json.dumps({"plot": str(config.output), "points": len(points), "unbeaten": names}))


if __name__ == "__main__":
    sys.exit(run_tool(main, ParetoConfig, __doc__))
