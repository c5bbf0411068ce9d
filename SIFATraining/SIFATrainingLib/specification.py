"""job.json of a training: from which volumes or prepared set, with every setting, where, and what to make of it."""

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
    """The bundle that a training starts from: its folder, and its name for the card."""

    folder: Path
    name: str


class TrainingSpecification(Frozen):
    """What a training job does. Relative paths are relative to its folder.

    Attributes:
        config: Every setting of the training.
        device: auto, cuda, mps or cpu.
        prepared: The prepared data set; made by the job itself, in its folder `prepared`, where it has a preparation.
        prepared_from_here: The way to it from the job's folder, with slashes, for when both have moved; none where it
            is in there.
        fingerprint: Of a data set that was there before the job; it must not change.
        preparation: Volumes to prepare first.
        baseline_iterations: Iterations of a training without adaptation that comes before, in the job's folder
            `baseline`, to compare with; 0 for none.
        export: Whether to export the finished training to `result/bundle`.
        bundle_name: What lists of models show; the task, the method and the date unless given.
        initial: Model whose weights the networks start with; the baseline always starts with random ones.
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
        """That of a job, its paths made absolute.

        Raises:
            InputError: The job is no training, or its job.json is damaged.
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
        """The prepared data set, of a specification that `of` gave.

        Raises:
            InputError: It is gone, or has changed since the job was made.
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
        # In a home of somebody else.
        return False
