"""From the start of a process to its first answer: infer_resnet with warm caches against eager PyTorch.

Both import the engine, make a workflow and classify one JPEG file of 640x480 pixels. Seconds, median, smallest and
largest of the runs, which take turns. "Warm" is what every start finds a minute after the first one: files in the
system's memory on both sides, and on ours the compiled network on the disk.
"""

from __future__ import annotations

import time
from statistics import median

import cv2
import inference_runs
from tables import DATA_FOLDER, Table, describe_spread, parse_arguments
from training_runs import run_program

#: The most that ours may take, in shares of the eager one's time.
TARGET = 0.6


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    inference_runs.link_plugins(inference_runs.HOME)
    image = DATA_FOLDER / "photograph.jpg"
    cv2.imwrite(str(image), inference_runs.make_photograph()[..., ::-1])
    table = Table("inference_start", __doc__, ("network", "eager", "ours", "ratio", "at most", "n"))
    for model_name in ("resnet18", "resnet50"):
        files = (image, inference_runs.prepare_weights(model_name), inference_runs.CLASS_FILE)
        times: dict[str, list[float]] = {"eager": [], "ours": []}
        rounds = arguments.repeats or (1 if arguments.quick else 9)
        for number in range(-2, rounds):
            if number == -1:
                time.sleep(inference_runs.SETTLING_S)
            for side in times:
                command = [side, *files, "--model", model_name]
                run = run_program("first_answer.py", command, {"HOME": str(inference_runs.HOME)})
                times[side] += [run.answer["seconds"]] * (number >= 0)
        ratio = median(times["ours"]) / median(times["eager"])
        cells = (describe_spread(times["eager"], 2), describe_spread(times["ours"], 2))
        table.add(model_name, *cells, f"{ratio:.2f}", f"{TARGET:.2f}", str(rounds))
    table.write(arguments)


if __name__ == "__main__":
    main()
