"""One photograph of 640x480 pixels, an array in memory: infer_resnet in a workflow against eager PyTorch in one.

Milliseconds an image, median and in brackets the 10th and 90th percentile. All sides take turns in one process. "Bare"
is the network alone in the same runtime, the limit of what a plugin can reach; "own" is what the engine, preparing the
image and the outputs take on top of it, and "engine" what of that an empty task takes, too. The eager task is described
in inference_runs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import inference_runs
from tables import Table, parse_arguments

#: The most that ours may take, in shares of the eager task's time.
TARGETS: Mapping[str, Mapping[str, float]] = {
    "resnet18": {"fp32": 0.52, "auto": 0.33, "int8": 0.24},
    "resnet50": {"fp32": 0.62, "auto": 0.36},
}


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    inference_runs.prepare_engine()
    columns = ("network", "precision", "eager", "ours", "ratio", "at most", "eager, bare", "ours, bare")
    table = Table("inference_image", __doc__, (*columns, "own", "engine", "n"))
    for model_name in TARGETS:
        measure(table, model_name, arguments.repeats or (2 if arguments.quick else 20))
    table.notes.append("Seeded weights, two threads on both sides: PyTorch's and OpenVINO's own choice.")
    table.write(arguments)


def measure(table: Table, model_name: str, rounds: int) -> None:
    """Measure one network in all its precisions and add the rows."""
    image = inference_runs.make_photograph()
    weights = inference_runs.prepare_weights(model_name)
    sides = {
        "eager": inference_runs.make_eager_run(model_name, weights, image),
        "bare eager": inference_runs.make_bare_network(model_name, weights),
    }
    for precision in TARGETS[model_name]:
        parameters = inference_runs.choose_parameters(model_name, precision)
        sides[precision] = inference_runs.make_our_run(parameters, image)
        run_network = sides[f"bare {precision}"] = inference_runs.make_our_bare_network(parameters)
        sides[f"empty {precision}"] = inference_runs.make_empty_run(run_network, image)
    times = inference_runs.take_turns(sides, rounds)
    texts = {name: inference_runs.describe_percentiles(values) for name, values in times.items()}
    for precision, target in TARGETS[model_name].items():
        ours, bare = median(times[precision]), median(times[f"bare {precision}"])
        ratio, own = ours / median(times["eager"]), ours - bare
        engine = median(times[f"empty {precision}"]) - bare
        cells = (texts["eager"], texts[precision], f"{ratio:.2f}", f"{target:.2f}", texts["bare eager"])
        counted = str(len(times[precision]))
        table.add(model_name, precision, *cells, texts[f"bare {precision}"], f"{own:.1f}", f"{engine:.1f}", counted)


if __name__ == "__main__":
    main()
