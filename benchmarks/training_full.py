"""Training the whole network for one epoch on 400 photographs: train_resnet against a plain torchvision script.

Both train on the same files from the same weights in batches of 8, validation included, each in a process of its own;
the two take turns. "Epoch" is the first epoch, reading of the images included: the plain script reads them in it, we in
the check before it, whose time is added ("later" is what an epoch takes when the images are kept, without the check).
"Run" is the process from its start to its end, with the imports on both sides, and exports and report on ours.
"""

from __future__ import annotations

from tables import Table, parse_arguments
from training_runs import Comparison, ProgramRun, prepare_job

NUM_PHOTOGRAPHS = 400

#: The most that our epoch may take, in shares of the plain script's.
TARGETS = {"resnet18": 0.5, "resnet50": 0.5}


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse_arguments(__doc__)
    table = Table("training_full", __doc__, ("model", "plain", "train_resnet", "ratio", "at most", "n", "peak"))
    num_photographs = 80 if arguments.quick else NUM_PHOTOGRAPHS
    for model_name, target in TARGETS.items():
        job = prepare_job(model_name, num_photographs, epochs=1, is_frozen=False)
        epochs, later, runs = Comparison(), Comparison(), Comparison()
        for _ in range(arguments.repeats or (1 if arguments.quick else 3 if model_name == "resnet18" else 2)):
            plain, ours = job.run_plain(), job.run_ours()
            epochs.add(plain, ours, get_first_epoch)
            later.add(plain, ours, get_epoch)
            runs.add(plain, ours)
        table.add(f"{model_name}, epoch", *epochs.describe(target))
        table.add(f"{model_name}, later", *later.describe(None))
        table.add(f"{model_name}, run", *runs.describe(None))
    table.notes.append(f"{num_photographs} photographs.")
    table.write(arguments)


def get_first_epoch(run: ProgramRun) -> float:
    """Return the seconds of the only epoch of a run, and of the check that has read its images."""
    checking = 0.0 if "epochs" in run.answer else run.answer["metrics"]["timings"]["checking"]
    return get_epoch(run) + float(checking)


def get_epoch(run: ProgramRun) -> float:
    """Return the seconds of the only epoch of a run."""
    if "epochs" in run.answer:
        return float(run.answer["epochs"][0])
    return float(run.answer["metrics"]["history"][0]["seconds"])


if __name__ == "__main__":
    main()
