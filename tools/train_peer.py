"""Train another network exactly as the student is trained: `tools/train_peer.py CLASS FLAGS`.

    python tools/train_peer.py package.module:Class '{"width": 16}' --train.folder runs/peer ...

The class maps (B, 3, H, W) to the same; the JSON object holds its arguments; the other flags are
the script's own, teacher terms excluded, since a peer has no taps. `tools/validation_table.py`
measures the result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import main_sharpening_script as script
from tools.candidates import load_peer
from tools.common import exit_status


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__)
        return 2
    module, settings, *flags = arguments
    load_peer(module, settings)  # what is wrong with it shows now
    script.build_network = lambda config: load_peer(module, settings)
    untaught = ["--teacher.no-enabled"]
    for term in ("perceptual", "feature", "kl"):
        untaught += [f"--loss.{term}", "0"]
    status = script.main([*untaught, *flags])
    print(json.dumps({"network": module, "arguments": json.loads(settings), "status": status}))
    return status


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
