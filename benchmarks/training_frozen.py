"""Training the head alone, 15 epochs on 400 photographs: train_resnet against a plain torchvision script.

Both train on the same files from the same weights, with 15 epochs and batches of 8, each in a process of its own, from
its start to its end: imports, checking and exporting are part of our time, loading and saving of theirs. The two take
turns. Of the plain script's epochs, which are all alike, only some are run unless --full is given; the rest is
reckoned at their median.
"""

from __future__ import annotations

from statistics import median

from tables import Table, parse_arguments
from training_runs import Comparison, ProgramRun, prepare_job

EPOCHS = 15
NUM_PHOTOGRAPHS = 400

#: The most that our time may be, in shares of the plain script's.
TARGETS = {"resnet18": 0.08, "resnet50": 0.07}


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    table = Table("training_frozen", __doc__, ("model", "plain", "train_resnet", "ratio", "at most", "n", "peak"))
    for model_name, target in TARGETS.items():
        num_photographs, epochs = (80, 1) if arguments.quick else (NUM_PHOTOGRAPHS, EPOCHS if arguments.full else 2)
        job = prepare_job(model_name, num_photographs, EPOCHS, is_frozen=True)
        comparison = Comparison()
        for _ in range(arguments.repeats or (1 if arguments.quick else 3 if model_name == "resnet18" else 2)):
            comparison.add(job.run_plain(epochs), job.run_ours(), scale)
        table.add(model_name, *comparison.describe(target))
    table.notes.append(f"{num_photographs} photographs; {epochs} of the plain script's {EPOCHS} epochs were run.")
    table.write(arguments)


def scale(run: ProgramRun) -> float:
    """Return the seconds of a run; those of a plain one as if it had had all epochs."""
    seconds = run.answer.get("epochs")
    if seconds is None:
        return run.seconds
    return run.seconds + (EPOCHS - len(seconds)) * median(seconds)


if __name__ == "__main__":
    main()
