"""Segmentation in a separate process: a job folder whose inputs and results are files.

```
job.json                      kind "segment", a `SegmentationSpecification`
result/N_segmentation.mha     labelmap of volume N, on exactly its grid
result/N_baseline.mha         labelmap by the model without adaptation, if asked for
result/N_probability_M.mha    M-th of its `probability_maps`, uint8 from 0 to 255, if asked for
```

It is run by `python -m SIFASegmentationLib JOB` (`segmentation_process`). Events are

- device (name), once the models are loaded;
- progress (volume, volumes, done, total, eta_seconds) after each batch of slices;
- warning (volume, message) if a volume or a structure in it is unlike those of the training, or adaptation seems to
  have made the result worse;
- result (volume, labelmap, baseline, probabilities, confidence, slice_axis, estimates, baseline_estimates, doubts)
  after each volume;
- refused (volume, message) for a volume that can't be used.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from .errors import InputError, first_fault
from .jobs import Job
from .regions import BoxMM
from .schema import Frozen
from .segmentation_options import DEFAULTS, SegmentationOptions

KIND = "segment"


class VolumeRequest(Frozen):
    """One volume to segment.

    Attributes:
        name: Name of the volume in messages.
        image: Path of the file or DICOM folder, absolute or relative to the job folder.
        region: Field of view in mm, LPS; found automatically unless given.
    """

    name: str
    image: str
    region: BoxMM | None = None


class SegmentationSpecification(Frozen):
    """Specification of a segmentation in job.json.

    Attributes:
        bundle: Path of the model's bundle.
        volumes: Volumes to segment, in this order.
        options: How to segment, and whether to write the probability maps.
        device: auto, cpu or cuda.
        baseline: Also segment with the bundle's model without adaptation.
    """

    bundle: str
    volumes: tuple[VolumeRequest, ...]
    options: SegmentationOptions = DEFAULTS
    device: str = "auto"
    baseline: bool = False

    @classmethod
    def of(cls, job: Job) -> SegmentationSpecification:
        """The specification of a job.

        Raises:
            InputError: The job is of another kind, or its specification is damaged.
        """
        if job.kind != KIND:
            raise InputError(f"{job.folder} is no segmentation but '{job.kind}'", "give the folder of a segmentation")
        try:
            return cls.model_validate(job.specification)
        except ValidationError as error:
            field, _ = first_fault(error)
            raise InputError(f"{job.folder / 'job.json'} is damaged (at '{field}')", "start the job anew") from None


def create_segmentation_job(folder: Path, specification: SegmentationSpecification) -> Job:
    """Create a segmentation job in the state `QUEUED`.

    Raises:
        InputError: The folder is not empty or can't be written to.
    """
    return Job.create(folder, KIND, specification.model_dump(mode="json"))
