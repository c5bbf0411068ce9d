"""The trainings that this user has started: folders in the application's settings, so that they are found again."""

from __future__ import annotations

import json
from pathlib import Path

import qt

from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import Job, State

_KEY = "SIFA/trainings"
_KEPT = 50


def known_jobs() -> list[Job]:
    """Jobs whose folder still is there, the newest first."""
    stored = qt.QSettings().value(_KEY, "[]")
    jobs = []
    for folder in json.loads(stored) if stored else []:
        try:
            jobs.append(Job(Path(folder)))
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
    stored = qt.QSettings().value(_KEY, "[]")
    folders = json.loads(stored) if stored else []
    kept = [str(job.folder), *(folder for folder in folders if folder != str(job.folder))]
    qt.QSettings().setValue(_KEY, json.dumps(kept[:_KEPT]))


def forget_job(job: Job) -> None:
    """Take a job off the list; its folder stays."""
    stored = qt.QSettings().value(_KEY, "[]")
    kept = [folder for folder in json.loads(stored) if folder != str(job.folder)] if stored else []
    qt.QSettings().setValue(_KEY, json.dumps(kept))
