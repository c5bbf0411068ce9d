"""Which files belong together: images, their labelmaps, their patients.

| what is given    | images                     | labelmaps                      | patient   |
|------------------|----------------------------|--------------------------------|-----------|
| a folder         | `NAME_image.*`             | `NAME_label.*`                 | NAME      |
| nnU-Net          | `imagesTr/NAME_0000.*`     | `labelsTr/NAME.*`              | NAME      |
| Decathlon        | `imagesTr/NAME.*`          | `labelsTr/NAME.*`              | NAME      |
| TotalSegmentator | the volume in `NAME/`      | `NAME/segmentations/*` (masks) | NAME      |
| a folder         | any volumes, DICOM folders | none (unlabelled only)         | file name |
| `images...`      | `NAME_0000.*` or `NAME.*`  | none (unlabelled only)         | NAME      |
| a CSV file       | column `image`             | column `label`                 | `patient` |

A folder is one of TotalSegmentator's where no volume lies directly in it, and some folder in it has one that is called
`segmentations`. A folder of masks has a file for each structure (`mask_folders`), and can be a CSV's `label`, too.

In `_image` and `_label`, case does not matter, and a hyphen, a dot or a space separates as well. Labelmaps beside
unlabelled volumes, `NAME_seg.*` or `NAME-label.*` beside `NAME.*`, are left alone. Where a name leaves open whether a
file is a labelmap, its voxels decide: a labelmap is refused, an image is one. A folder of slices is always an image.

The CSV alone can give a patient several images, and an image a region of interest of its own: column `region`,
`"X0,X1,Y0,Y1,Z0,Z1"` in mm, LPS, in quotes, empty where there is none.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .cases import Case, check_disjoint
from .cohort_folders import cases_in_folder
from .cohort_tables import cases_in_csv
from .dicom_files import check_links
from .errors import InputError
from .files import check_name
from .volume_folders import folder_names, unused_folders, volumes_in
from .volume_names import (
    CHANNEL_SUFFIX,
    MAP_INFIX,
    OWN_ENDING,
    by_name,
    holds_channels,
    image_subject,
    labelmap_subject,
)
from .volumes import is_volume_file

__all__ = ["CHANNEL_SUFFIX", "MAP_INFIX", "OWN_ENDING", "Case", "by_name", "check_disjoint", "find_cases",
           "folder_names", "holds_channels", "image_subject", "is_volume_file", "labelmap_subject", "unused_folders",
           "volumes_in"]  # fmt: skip


def find_cases(path: str | Path, *, labelled: bool, patients: Collection[str] | None = None) -> list[Case]:
    """The cases in a folder or a CSV file, sorted by patient and image.

    Args:
        path: As in the table above; paths in a CSV are relative to it.
        labelled: Whether each image needs a labelmap. If not, labelmaps are left alone: `Case.label` is None.
        patients: Whose cases are wanted, all unless given; what the others have or lack does not matter.

    Raises:
        InputError: Nothing there, an image without labelmap, a labelmap without image, two files for one, something of
            a patient that would be left out (a broken link, a volume beside `*_image` files that is none and was not
            made from one, DICOM files elsewhere than in a folder of each series), a volume that by its name and voxels
            may be a labelmap, or by its name a channel of another, or a line of the CSV that is incomplete, names a
            missing file or one that another line names.
    """
    path = Path(path)
    if path.is_file():
        cases = cases_in_csv(path, labelled, patients)
    elif path.is_dir():
        cases = cases_in_folder(path, labelled, patients)
    else:
        raise InputError(f"{path} does not exist", "give a folder of volumes or a CSV file")
    files = [file for case in cases for file in (case.image, case.label) if file is not None]
    check_links(files)
    for file in files:
        check_name(file)
    return sorted(cases, key=lambda case: (case.patient, str(case.image)))
