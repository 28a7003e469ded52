"""The program `resnetkit`, also as `python -m resnetkit`: its commands are the modules of `resnetkit.commands`."""

from __future__ import annotations

import argparse
import atexit
import difflib
import gc
import sys
from collections.abc import Sequence

from resnetkit import __version__

#: The commands: each is a module of `resnetkit.commands` with that name, see `Command` in its `program`. Their
#: sentences stand here, so that this program's help imports nothing.
COMMANDS = {
    "train": "train a classifier on a folder or table of images",
    "classify": "classify files, folders and lists of images into a table",
    "similar": "find the images of a folder that are most like another one",
    "evaluate": "measure how right a model is on labelled images",
    "compare": "compare trainings and evaluations",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return the exit status of the process.

    Args:
        words: The arguments; those of the process by default.
    """
    is_program = words is None
    if words is None:
        words = sys.argv[1:]
        # At its end Python searches all that there is for garbage, several times: with torch, for 1.5 seconds.
        atexit.register(gc.freeze)
    if words and words[0] in COMMANDS:
        from resnetkit.commands.program import end_process, run_command

        status = run_command(words[0], words[1:])
        if is_program:
            end_process(status)
        return status
    parser = argparse.ArgumentParser(
        "resnetkit",
        usage="resnetkit COMMAND ...",
        description="ResNet image classification.",
        epilog="`resnetkit COMMAND --help` lists the options of a command. Exit status: 0 done, 1 failed, 2 wrong use, "
        "130 or 143 stopped by Ctrl-C or SIGTERM.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"resnetkit {__version__}")
    commands = parser.add_argument_group("commands")
    for name, summary in COMMANDS.items():
        commands.add_argument(name, nargs="?", help=summary)
    word = words[0] if words else ""
    if word and not word.startswith("-"):
        close = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(COMMANDS)}"
        sys.stderr.write(f"resnetkit: no command '{word}'; {hint}\n")
        return 2
    parser.parse_args(words)
    parser.print_help(sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
