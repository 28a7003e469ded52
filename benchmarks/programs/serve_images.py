"""Classify a photograph in the engine in each precision, some times whenever a line on standard input names the side.

Sides are the precisions; with `--bare` they are `bare fp32`, the network alone, and `empty fp32`, an empty task around
it, and so on.
The library and the plugin are those that PYTHONPATH and HOME lead to.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import inference_runs


def main() -> None:
    """Answer each line with one of `times` and a JSON list of milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parameters", type=json.loads, help="infer_resnet's parameters by precision, as JSON")
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    inference_runs.start_engine()
    image = inference_runs.make_photograph()
    sides = {}
    for precision, parameters in arguments.parameters.items():
        if not arguments.bare:
            sides[precision] = inference_runs.make_our_run(parameters, image)
        else:
            run_network = sides[f"bare {precision}"] = inference_runs.make_our_bare_network(parameters)
            sides[f"empty {precision}"] = inference_runs.make_empty_run(run_network, image)
    for line in sys.stdin:
        print("times", json.dumps(inference_runs.time_runs(sides[line.strip()])), flush=True)


if __name__ == "__main__":
    main()
