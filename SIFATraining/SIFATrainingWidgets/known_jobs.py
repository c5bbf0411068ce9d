"""The trainings that this user has started: folders in the application's settings, so that they are found again."""

from __future__ import annotations

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State
from SIFASegmentationWidgets.recent_paths import RecentPaths

_RECENT = RecentPaths("SIFA/trainings", kept=50)


def known_jobs() -> list[Job]:
    """Jobs whose folder still is there, the newest first."""
    jobs = []
    for folder in _RECENT.read():
        try:
            jobs.append(Job(folder))
        except InputError:
            # Deleted, moved, or on a disk that is not mounted now: it stays in the settings and may come back.
            continue
    return jobs


def state_of(job: Job) -> State:
    """Where a job stands; lost, too, where its folder can't be read now."""
    try:
        return job.state()
    except OSError:
        return State.LOST


def remember_job(job: Job) -> None:
    """Put a job first in the list."""
    _RECENT.put_first(job.folder)


def forget_job(job: Job) -> None:
    """Take a job off the list; its folder stays."""
    _RECENT.remove(job.folder)
