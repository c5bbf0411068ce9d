"""Specification of a training job in its job.json: data, settings, device, and what to make of the result."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from SIFASegmentationLib.errors import InputError, first_fault
from SIFASegmentationLib.jobs import Job
from SIFASegmentationLib.schema import Frozen

from .config import TrainingConfig
from .dataset import PreparedDataset
from .prepare import Preparation

KIND = "train"
PREPARED_FOLDER = "prepared"
BASELINE_FOLDER = "baseline"


class InitialModel(Frozen):
    """Bundle whose weights a training starts from: its folder, and its name for the model card."""

    folder: Path
    name: str


class TrainingSpecification(Frozen):
    """What a training job does. Relative paths are relative to the job's folder.

    Attributes:
        config: All settings of the training.
        device: auto, cuda, mps or cpu.
        prepared: Folder of the prepared data set. With a `preparation`, the job makes it in its own folder `prepared`.
        prepared_from_here: Relative path to `prepared` from the job's folder, with slashes, in case both were moved;
            None if it lies within that folder, or on another drive of Windows.
        fingerprint: Fingerprint of a data set that existed before the job, and must not change; None for others.
        preparation: Volumes to prepare first; None if the data set exists.
        baseline_iterations: Iterations of a training without adaptation that runs first, in the job's folder
            `baseline`, for comparison; 0 for none.
        export: Whether to export the finished training to `result/bundle`.
        bundle_name: Name shown in lists of models; if None, made from task, method and date.
        initial: Model whose weights the networks start with; None for random weights, as for every baseline.
    """

    config: TrainingConfig
    device: str = "auto"
    prepared: Path = Path(PREPARED_FOLDER)
    prepared_from_here: str | None = None
    fingerprint: str | None = None
    preparation: Preparation | None = None
    baseline_iterations: int = Field(default=0, ge=0)
    export: bool = False
    bundle_name: str | None = None
    initial: InitialModel | None = None

    @classmethod
    def of(cls, job: Job) -> TrainingSpecification:
        """Read the specification of a job, with absolute paths.

        Raises:
            InputError: The job is not a training, or its job.json is damaged.
        """
        if job.kind != KIND:
            raise InputError(f"{job.folder} is no training but '{job.kind}'", "give the folder that `sifa train` made")
        try:
            specification = cls.model_validate(job.specification)
        except ValidationError as error:
            field, _ = first_fault(error)
            raise InputError(f"{job.folder / 'job.json'} is damaged (at '{field}')", "start the job anew") from None
        preparation = specification.preparation
        prepared = job.folder / specification.prepared
        if specification.prepared_from_here is not None and not _is_there(prepared):
            moved = job.folder / specification.prepared_from_here
            prepared = moved if _is_there(moved) else prepared
        return specification.model_copy(
            update={
                "prepared": prepared.resolve(),
                "preparation": preparation and preparation.below(job.folder),
            }
        )

    def dataset(self, job: Job) -> PreparedDataset:
        """Open the prepared data set; `self` must come from `of`.

        Raises:
            InputError: The data set is missing or damaged, or has changed since the job was made.
        """
        found = PreparedDataset(self.prepared)
        if self.fingerprint not in (None, found.fingerprint):
            problem = f"{self.prepared} has changed since the job {job.folder} was made"
            raise InputError(problem, "start a new training")
        return found


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # The path may lie in another user's home folder.
        return False
