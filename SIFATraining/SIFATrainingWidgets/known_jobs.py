"""The folders of the user's trainings, kept in the application's settings so that they can be found again."""

from __future__ import annotations

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationWidgets.recent_paths import RecentPaths

_RECENT = RecentPaths("SIFA/trainings", kept=50)


def known_jobs() -> list[Job]:
    """Return the jobs whose folders exist, the last used first."""
    jobs = []
    for folder in _RECENT.read():
        try:
            jobs.append(Job(folder))
        except InputError:
            # Deleted, moved, or on a disk that is not mounted: it stays in the settings, since it may come back.
            continue
    return jobs


def state_of(job: Job) -> State:
    """Return the state of a job; `LOST` if its folder can't be read at the moment."""
    try:
        return job.state()
    except OSError:
        return State.LOST


def remember_job(job: Job) -> None:
    """Put a job first in the list."""
    _RECENT.put_first(job.folder)


def forget_job(job: Job) -> None:
    """Remove a job from the list; its folder stays."""
    _RECENT.remove(job.folder)
