"""`python -m SIFASegmentationLib JOB`: do a segmentation job in this process.

With `--parent PID` the process ends when that process does, and its folder, which holds volumes of patients, with it: a
segmentation that nobody waits for is of no use. Exit code 0 when finished or stopped, 2 when the input can't be used, 1
on a fault; what happened stands in the job folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from .errors import InputError
from .files import remove_folder_in_use, take_names_as_utf8
from .jobs import Job, process_exists


def main() -> int:
    """Parse the arguments, run the job, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m SIFASegmentationLib", description=__doc__)
    parser.add_argument("job", type=Path, help="job folder of a segmentation")
    parser.add_argument("--parent", type=int, help="end with this process")
    arguments = parser.parse_args()
    take_names_as_utf8()
    if arguments.parent is not None:
        threading.Thread(target=_end_with, args=(arguments.parent, arguments.job), daemon=True).start()
    try:
        job = Job(arguments.job)
        # Imported only when the job is known: importing ONNX Runtime can fail, and the window has to learn of it.
        from .segmentation_process import run_segmentation  # noqa: PLC0415

        run_segmentation(job)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if arguments.parent is not None and not process_exists(arguments.parent):
            remove_folder_in_use(arguments.job)
    return 0


def _end_with(process: int, folder: Path) -> None:
    while process_exists(process):
        time.sleep(1.0)
    remove_folder_in_use(folder)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
