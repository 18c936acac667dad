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
from tools.candidates import load_class


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__)
        return 2
    module, settings, *flags = arguments
    try:
        peer, settings = load_class(module), json.loads(settings)
    except (script.SharpeningError, json.JSONDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    script.build_network = lambda config: peer(**settings)
    return script.main(flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
