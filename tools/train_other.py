"""Train another network exactly as the student is trained, without a teacher.

    python tools/train_other.py --network nafnet --arguments '{"width": 16}' FLAGS
    python tools/train_other.py --network restormer --arguments '{"dim": 24}' FLAGS
    python tools/train_other.py --network package.module:Class FLAGS

A network maps (B, 3, H, W) to the same; `--arguments` is a JSON object with its arguments. FLAGS
are those of main_sharpening_script.py, such as --data.root and --train.folder. nafnet is spandrel's
(requirements-dev.txt); a restormer is what --teacher.weights takes. `tools/validation_table.py`
measures the result.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.runtime import start_runtime
from tools.common import exit_status, run_beside_script
from tools.networks import other_network


@dataclass(frozen=True)
class OtherConfig:
    network: str = "restormer"
    """nafnet, restormer, or the import path of a class."""
    arguments: str = "{}"
    """Its keyword arguments, JSON."""


def main(other: OtherConfig, flags: list[str]) -> None:
    net = other_network(other.network, other.arguments)  # shows now what is wrong with it
    config = script.read_config(["--teacher.no-enabled", *flags])
    if config.infer or config.evaluate or config.demo:
        raise SharpeningError("this tool trains: leave out --infer, --evaluate and --demo")
    with start_runtime(config.device, config.train.precision, config.train.seed) as runtime:
        final = script.train(
            config, runtime, build=lambda _: other_network(other.network, other.arguments)
        )
    result = {"network": other.network, "arguments": json.loads(other.arguments)}
    print(json.dumps(result | {"checkpoint": str(final), "parameters": script.parameters(net)}))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: run_beside_script(main, OtherConfig, __doc__, sys.argv[1:])))
