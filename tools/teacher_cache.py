"""A teacher's results on whole training images: `python tools/teacher_cache.py FOLDER FLAGS`.

    python tools/teacher_cache.py runs/taught --data.root GoPro_dataset
    torchrun --nproc-per-node 4 tools/teacher_cache.py runs/taught --data.root GoPro_dataset
    python main_sharpening_script.py --teacher.results runs/taught --loss.feature 0

The Restormer of `--weights` sharpens the blurred image of every real training pair into a PNG file
of the pair's name. Each file says what it was made from; results of other images, other weights
or another precision are made again, finished ones are kept. results.json sums that up for the
training. Under torchrun each process makes its share.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import RESULTS_LOG, Pair, read_rgb, roots_of, stamp
from sharpening.media_files import atomic_write
from sharpening.runtime import Runtime, start_runtime
from tools.common import real_pairs, run_tool

TAG = "made_from"
"""Name of the text in a result's PNG file."""


@dataclass(frozen=True)
class CacheConfig:
    results: tyro.conf.Positional[Path]
    """Folder for the results, which `--teacher.results` of the script reads."""
    data: script.DataConfig = field(default_factory=script.DataConfig)
    """`--data.root` and the names of its folders."""
    weights: Path = script.TeacherConfig.weights
    """Weights of the Restormer."""
    tile: int | None = None
    """Largest side of a tile, pixels; None: the whole image where memory allows."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the arithmetic."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


def origin_of(pair: Pair, weights: str, precision: str) -> dict[str, Any]:
    """What a result depends on, as its file says it."""
    return {"image": stamp(pair.blurry), "weights": weights, "precision": precision}


def is_finished(path: Path, origin: dict[str, Any]) -> bool:
    """Whether `path` is the result of `origin`; SharpeningError if another program made it."""
    if not path.exists():
        return False
    with Image.open(path) as image:
        text = getattr(image, "text", {}).get(TAG)
    if text is None:
        raise SharpeningError(f"{path} was made by another program: give a folder of its own")
    return json.loads(text) == origin


def make_result(sharpen: script.Sharpener, pair: Pair, path: Path, origin: dict[str, Any]) -> None:
    """The teacher's image for the blurred one of `pair`, as a PNG file that names its origin."""
    note = PngInfo()
    note.add_text(TAG, json.dumps(origin))
    taught = Image.fromarray(sharpen(read_rgb(pair.blurry)))
    with atomic_write(path) as temporary:
        taught.save(temporary, "PNG", compress_level=1, pnginfo=note)


def write_log(folder: Path, pairs: Sequence[Pair], weights: str, precision: str) -> None:
    """results.json: what the results of `pairs` were made from."""
    made_from = {pair.name: stamp(pair.blurry) for pair in pairs}
    log = {"made_from": made_from, "weights": weights, "precision": precision}
    with atomic_write(folder / RESULTS_LOG) as temporary:
        temporary.write_text(json.dumps(log))


def fill(config: CacheConfig, runtime: Runtime) -> dict[str, Any]:
    """Make what is missing or made from something else -> counts.

    Old results go first, so that an interruption leaves none: training then finds them missing.
    """
    pairs = real_pairs(roots_of(config.data)[0] / "train", config.data)
    settings = script.InferenceConfig(tile=config.tile, backend="pytorch")
    sharpen = script.Sharpener(script.restormer_from_weights(config.weights), runtime, settings)
    weights = hashlib.sha256(config.weights.read_bytes()).hexdigest()
    paths = {pair: config.results / f"{pair.name}.png" for pair in pairs}
    origins = {pair: origin_of(pair, weights, runtime.precision) for pair in pairs}
    own = pairs[runtime.rank :: runtime.world]
    missing = [pair for pair in own if not is_finished(paths[pair], origins[pair])]
    for pair in missing:
        paths[pair].unlink(missing_ok=True)
    for pair in tqdm(missing, "teach", unit="image", disable=not runtime.is_main):
        make_result(sharpen, pair, paths[pair], origins[pair])
    (made,) = runtime.total([len(missing)])  # waits for the others
    runtime.on_main(lambda: write_log(config.results, pairs, weights, runtime.precision))
    return {"results": str(config.results), "images": len(pairs), "made": int(made)}


def main(config: CacheConfig) -> None:
    with start_runtime(config.device, config.precision) as runtime:
        result = fill(config, runtime)
        runtime.say(f"{result['made']} of {result['images']} results made in {config.results}")
        runtime.say(json.dumps(result | {"weights": config.weights.name}))


if __name__ == "__main__":
    sys.exit(run_tool(main, CacheConfig, __doc__))
