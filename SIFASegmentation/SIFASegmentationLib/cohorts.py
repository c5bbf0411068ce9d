"""Find out which files belong together: images, labelmaps and patients.

| what is given    | images                     | labelmaps                      | patient   |
|------------------|----------------------------|--------------------------------|-----------|
| a folder         | `NAME_image.*`             | `NAME_label.*`                 | NAME      |
| nnU-Net          | `imagesTr/NAME_0000.*`     | `labelsTr/NAME.*`              | NAME      |
| Decathlon        | `imagesTr/NAME.*`          | `labelsTr/NAME.*`              | NAME      |
| TotalSegmentator | the volume in `NAME/` (1)  | `NAME/segmentations/*` (masks) | NAME      |
| a folder         | any volumes, DICOM folders | none (unlabelled only)         | file name |
| `images...`      | `NAME_0000.*` or `NAME.*`  | none (unlabelled only)         | NAME      |
| a CSV file       | column `image`             | column `label`                 | `patient` |

(1) Or the slices of a DICOM series. A folder counts as TotalSegmentator's if no volume file lies directly in it and
some folder in it has a subfolder `segmentations`. A folder of masks has a file for each structure (`mask_folders`), and
can also be a CSV's `label`.

The endings `_image` and `_label` may be in any case, with a hyphen, a dot or a space in place of `_`. Labelmaps beside
unlabelled volumes, `NAME_seg.*` or `NAME-label.*` beside `NAME.*`, are ignored. Where a name leaves open whether a file
is a labelmap, its voxels decide: a labelmap is refused, an image is used. A folder of slices is always an image.

Only a CSV can list several images of a patient, or give an image a region of interest of its own: in the column
`region`, as `"X0,X1,Y0,Y1,Z0,Z1"` in mm, LPS, with the quotes; empty if there is none.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .cases import Case
from .cohort_folders import cases_in_folder
from .cohort_tables import cases_in_csv
from .dicom_files import check_links
from .errors import InputError
from .files import check_name


def find_cases(path: str | Path, *, labelled: bool, patients: Collection[str] | None = None) -> list[Case]:
    """Find the cases in a folder or a CSV file, sorted by patient and image.

    Args:
        path: Folder or CSV file as in the table above; paths in a CSV are relative to it.
        labelled: Whether each image needs a labelmap. If not, labelmaps are ignored and `Case.label` is None.
        patients: Patients whose cases are wanted; all unless given. An image or labelmap that is missing for another
            patient is then no error.

    Raises:
        InputError: Nothing is found, an image has no labelmap or a labelmap no image, two files have the same name,
            something of a patient would be left out (a broken link, a volume beside `*_image` files that is neither
            one nor made from one, DICOM files outside a folder of their series), a volume may be a labelmap by its
            name and voxels, or a channel of another by its name, or a line of the CSV is incomplete, or names a file
            that is missing or that another line names.
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
