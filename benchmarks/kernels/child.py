"""Runs one job of the kernels suite in a process of its own; the suite starts it.

Takes the job and what it has to know as one JSON object, and prints each figure as a
line of JSON as soon as it has it:

    {"job": "step", "load": 0, "work": {"backend": null, ...}}    -> {"name": ...}
"""

import json
import sys

from benchmarks.kernels.jobs import Work, run_job


def main(text: str) -> None:
    """Runs the job."""
    order = json.loads(text)
    work = Work(**order["work"])
    for figure in run_job(order["job"], work, load=order["load"]):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
