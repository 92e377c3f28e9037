"""`study`, also `python -m study`: the command as a shell starts it."""

import sys
from contextlib import nullcontext

from study.cli.app import main
from study.cli.child_process import in_child_process

# The commands that start Ray.
_START_RAY = {"run", "embed", "demo"}


def from_shell() -> None:
    """Run the command; one that starts Ray in a child process."""
    with in_child_process() if _START_RAY.intersection(sys.argv[1:2]) else nullcontext():
        main()


if __name__ == "__main__":
    from_shell()
