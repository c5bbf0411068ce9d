"""Comparison of several methods on one task: trained on the same slices, scored on the same volumes, row by row.

```
prepared/                    data set of all rows but the supervised one
prepared_with_labels/        data set of the supervised row
ROW/seed_0/job/              training
ROW/seed_0/bundle/           model
ROW/seed_0/labelmaps/        segmentations of the test volumes
ROW/seed_0/scores.json
ROW/seed_0/settings.json     settings of the training, and the row's title
ROW/seed_0/watched.json      Dice of the monitor volumes, if there are any, by iteration
ROW_mean_of_3/seed_0/        if asked for: bundle, labelmaps, scores, settings of the mean of three seeds' models
comparison.md  comparison_table.csv  comparison.csv (every score)  comparison.html
```

Whatever already exists is not made again: a comparison that was stopped or interrupted continues where it left off, a
finished one can be given further rows and seeds, and several processes can share the rows of one. The tables cover
every row that has scores, whoever made it. For such a row, scores and settings are enough: if the rest is deleted, only
its pictures are missing.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from SIFASegmentationLib.cases import Case
from SIFASegmentationLib.cohorts import find_cases
from SIFASegmentationLib.errors import InputError, first_fault
from SIFASegmentationLib.evaluation import score_pair
from SIFASegmentationLib.files import file_name, remove_remains, write_atomically
from SIFASegmentationLib.image_files import read_volume
from SIFASegmentationLib.jobs import Job, State, is_job
from SIFASegmentationLib.labelmaps import read_labelmap
from SIFASegmentationLib.output_names import labelmap_path
from SIFASegmentationLib.scores import ScoreTable
from SIFASegmentationLib.segment_files import Request, segment_files
from SIFASegmentationLib.structures import Task
from SIFASegmentationLib.volumes import Volume, volume_name

from .config import TrainingConfig, labelled_domain
from .devices import choose_device, give_back_memory, inference_device
from .export import export
from .findings import Finding, Warn
from .prepare import Preparation, run_preparation
from .specification import TrainingSpecification
from .steps import Emit, EndedError
from .steps import Report as StepReport
from .training import create_job, train
from .variants import Variant, place_in_table, variant_of

Report = Callable[[str, str, dict[str, Any]], None]
"""Called with the title of a row (empty for the preparation), and the kind and data of an event of its training; last
with the kind `scored` and the row's mean `dice` and `asd` (mm)."""

_WITHOUT_LABELS, _WITH_LABELS = "prepared", "prepared_with_labels"
_SCORES, _SETTINGS, _WATCHED = "scores.json", "settings.json", "watched.json"


class _Record(TrainingConfig):
    """Contents of a row's `settings.json`; older files have neither `title` nor `seeds`."""

    title: str = ""
    seeds: tuple[int, ...] = ()

    @classmethod
    def of(cls, variant: Variant, configs: Sequence[TrainingConfig]) -> _Record:
        """Make the record of a row from the settings of its training, or of those whose models it averages."""
        seeds = tuple(config.seed for config in configs)
        return cls(**configs[0].model_dump(), title=variant.title, seeds=seeds)

    @property
    def config(self) -> TrainingConfig:
        """Settings of the training, or of the first of several."""
        return TrainingConfig.model_validate(self.model_dump(exclude={"title", "seeds"}))


@dataclass(frozen=True)
class Result:
    """Scores of one row for one seed, or for a mean of models.

    Attributes:
        variant: The row.
        config: Settings of the training, or of the first of several.
        seeds: Seed of the training, or the seeds of all whose models are averaged.
        folder: Folder of the row and seed.
        table: Scores of each structure in each volume.
    """

    variant: Variant
    config: TrainingConfig
    seeds: tuple[int, ...]
    folder: Path
    table: ScoreTable

    @property
    def seed(self) -> int:
        """Seed of the training, or of the first of several."""
        return self.config.seed

    def labelmap(self, subject: str) -> Path:
        """Return the file of the prediction for a volume, which is named as by `subjects_of`."""
        return labelmap_path(self.folder / "labelmaps", file_name(subject))

    def watched(self) -> list[tuple[int, float]]:
        """Return iterations and the mean Dice of the monitor volumes there; empty if there are no such volumes."""
        path = self.folder / _WATCHED
        if not path.exists():
            return []
        events = json.loads(path.read_text(encoding="utf-8"))
        return [(event["iteration"], event["dice"]["mean"]) for event in events if event["dice"]]


@dataclass(frozen=True)
class Comparison:
    """The finished results of a comparison.

    Attributes:
        task: Task of all rows.
        results: Results by row, in the order of the table, then by seed.
        cases: Volumes that are scored.
        odd: Scored patients that are known to be unlike the others; they are reported apart.
    """

    task: Task
    results: tuple[Result, ...]
    cases: tuple[Case, ...]
    odd: frozenset[str] = frozenset()

    def of(self, name: str) -> list[Result]:
        """Return the results of a row by its name, one per seed."""
        return [result for result in self.results if result.variant.name == name]

    @property
    def variants(self) -> list[Variant]:
        """The rows that have a result."""
        return list({result.variant.name: result.variant for result in self.results}.values())


class StoppedError(InputError):
    """Raised when a preparation, training or export of a comparison was stopped before its end.

    Attributes:
        comparison: Results of the rows that have scores.
    """

    def __init__(self, problem: str, advice: str, comparison: Comparison) -> None:
        super().__init__(problem, advice)
        self.comparison = comparison


def compare(
    out: str | Path,
    preparation: Preparation,
    variants: Sequence[Variant],
    *,
    common: dict[str, Any],
    iterations: int | None = None,
    bound_iterations: int | None = None,
    seeds: Sequence[int] = (0,),
    ensemble: bool = False,
    odd: Collection[str] = (),
    device: str = "auto",
    time_limit_seconds: float = math.inf,
    report: Report = lambda *_: None,
) -> Comparison:
    """Do the work of a comparison that is still missing.

    Target labels are read only for the supervised row and for the scores. The scored volumes, which are the
    preparation's `test` or else the target's patients among its `hold_out`, are in no training set.

    Args:
        out: Folder of the comparison, made unless it exists.
        preparation: Preparation of the data set that all rows share.
        variants: The rows.
        common: Settings of the training that all rows share, such as width and batch.
        iterations: Iterations of the rows that adapt; those of the preset unless given.
        bound_iterations: Iterations of the rows that train on labels alone; those of the preset unless given.
        seeds: Each row is trained once with each of these seeds.
        ensemble: Add a further row for each row: the mean of the models of all its seeds.
        odd: Scored patients to report apart from the others.
        device: auto, cuda, mps or cpu.
        time_limit_seconds: Time after which a running training is saved and stopped, or a running preparation or export
            is ended; another call continues.
        report: Called with events of all rows.

    Returns:
        Results of all rows in `out` that have scores, including those of earlier calls.

    Raises:
        StoppedError: A training was stopped on request, or the time is over. The row in progress has no scores.
        InputError: There is nothing to score, an odd patient is not scored, `out` holds a comparison of other volumes
            or settings, a volume or setting can't be used, or a training whose model is to be averaged is gone.
    """
    deadline = time.monotonic() + time_limit_seconds
    cases, task = tested_cases(preparation), preparation.loaded_task()
    # Names, settings, device, volumes and labels that can't be used are found now, not after hours of training.
    _check_names(cases, odd, variants)
    configs = {
        (variant.name, seed): variant.config(common, iterations, bound_iterations, seed)
        for variant in variants
        for seed in seeds
    }
    choose_device(device)
    for case in cases:
        read_volume(case.image)
        reference_of(case, task, preparation.target_coding)
    rows = _Rows(Path(out), preparation, task, cases, frozenset(odd), device, deadline, report)
    rows.comparison()  # Likewise raises now if rows of earlier calls don't fit into one table with these.
    for seed in seeds:
        for variant in variants:
            rows.train(variant, configs[variant.name, seed])
    if ensemble and len(seeds) > 1:
        for variant in variants:
            rows.make_mean(variant, [configs[variant.name, seed] for seed in seeds])
    return rows.comparison()


def _check_names(cases: Sequence[Case], odd: Collection[str], variants: Sequence[Variant]) -> None:
    """Check the names of labelmaps, odd patients and rows.

    Raises:
        InputError: Two labelmaps would have the same name, an odd patient is not scored, or a row is named like a data
            set.
    """
    files = Counter(file_name(subject).casefold() for subject in subjects_of(cases))
    if repeated := [name for name, count in files.items() if count > 1]:
        raise InputError(f"The labelmaps of two volumes would be called {repeated[0]}", "give the patients other names")
    scored = [case.patient for case in cases]
    if unknown := sorted(set(odd) - set(scored)):
        raise InputError(f"The odd patient '{unknown[0]}' is not scored", f"choose from {', '.join(scored)}")
    if taken := {_WITH_LABELS, _WITHOUT_LABELS} & {variant.name for variant in variants}:
        raise InputError(f"A row can't be called '{min(taken)}', as the data set is", "give it another title")


@dataclass(frozen=True)
class _Rows:
    """Makes the rows of one comparison that don't exist yet; see `compare` for the attributes."""

    out: Path
    preparation: Preparation
    task: Task
    cases: tuple[Case, ...]
    odd: frozenset[str]
    device: str
    deadline: float
    report: Report

    def comparison(self) -> Comparison:
        """Read the results of every row that has scores."""
        return read_comparison(self.out, self.task, self.cases, self.odd)

    def train(self, variant: Variant, config: TrainingConfig) -> None:
        """Make a row from one training."""
        # Rows that train on target labels have a data set of their own; that of the others contains none.
        needs_labels = labelled_domain(config) == "target"
        own = self.preparation.model_copy(update={"target_labels": needs_labels})
        _check_record(self.out, own)
        folder = self.out / variant.name / f"seed_{config.seed}"
        title = f"{variant.title}, seed {config.seed}"

        def make() -> None:
            prepared = _prepare(self.out, own, self._steps("preparing", ""), self._warn)
            seconds = self.deadline - time.monotonic()
            tell, steps = partial(self.report, title), self._steps("exporting", title)
            try:
                _train(folder, prepared, config, self.device, seconds, tell, steps)
            except EndedError:
                problem, advice = f"{folder / 'job'} was stopped", "run compare again to go on"
                raise StoppedError(problem, advice, self.comparison()) from None
            _keep_watched(folder)

        self._make(folder, _Record.of(variant, [config]), title, make)

    def make_mean(self, variant: Variant, configs: Sequence[TrainingConfig]) -> None:
        """Make the row for the mean of several trainings' models; its folder is named after the first seed."""
        mean = variant.mean_of(len(configs))
        folder = self.out / mean.name / f"seed_{configs[0].seed}"
        jobs = [self.out / variant.name / f"seed_{config.seed}" / "job" for config in configs]

        make = partial(_export_mean, folder, jobs, mean.title, self.device, self._steps("exporting", mean.title))
        self._make(folder, _Record.of(variant, configs), mean.title, make)

    def _steps(self, stage: str, title: str) -> StepReport:
        """Return a report of a row's steps; the time limit ends none of them, as half a data set would be of no use."""
        return lambda step: self.report(title, "progress", step.event(stage))

    def _warn(self, finding: Finding) -> None:
        self.report("", "warning", {"message": str(finding)})

    def _make(self, folder: Path, record: _Record, title: str, make_bundle: Callable[[], None]) -> None:
        done = _done(folder, self.cases)
        if done is None:
            make_bundle()
            table = _score(folder, record, self.cases, self.task, self.preparation, self.device)
        elif (done.config, done.seeds) == (record.config, record.seeds):
            table = done.table
        else:
            raise InputError(f"{folder} was trained with other settings", "choose another folder with --out")
        self.report(title, "scored", {"dice": table.mean("dice"), "asd": table.mean("asd")})


def read_comparison(out: Path, task: Task, cases: Sequence[Case], odd: Collection[str] = ()) -> Comparison:
    """Read the results of all rows in a folder, whichever calls made them.

    Args:
        out: Folder of the comparison.
        task: Task of the rows.
        cases: Volumes that are scored.
        odd: Scored patients to report apart.

    Raises:
        InputError: A row's scores are of other volumes, or its settings can't be read.
    """
    found = (_done(path.parent, cases) for path in out.glob(f"*/seed_*/{_SCORES}"))
    results = sorted(filter(None, found), key=lambda result: (place_in_table(result.variant.name), result.seed))
    return Comparison(task, tuple(results), tuple(cases), frozenset(odd))


def subjects_of(cases: Sequence[Case]) -> list[str]:
    """Return the name of each scored volume: that of its patient, with that of its image if the patient has several."""
    several = Counter(case.patient for case in cases)
    return [
        case.patient if several[case.patient] == 1 else f"{case.patient}, {volume_name(case.image)}" for case in cases
    ]


def tested_cases(preparation: Preparation) -> tuple[Case, ...]:
    """Find the labelled volumes to score.

    Raises:
        InputError: There are none.
    """
    if preparation.test is not None:
        return tuple(find_cases(preparation.test, labelled=True))
    held_out = [case for case in find_cases(preparation.target, labelled=False) if case.patient in preparation.hold_out]
    if not held_out:
        raise InputError(
            "There is nothing to score", "name target patients by --hold-out, or labelled volumes of others by --test"
        )
    return tuple(find_cases(preparation.target, labelled=True, patients={case.patient for case in held_out}))


def _check_record(out: Path, preparation: Preparation) -> None:
    """Record how the data set in `out` is prepared, or compare this with an earlier record.

    Raises:
        InputError: The earlier record differs or can't be read.
    """
    wanted = preparation.below(Path.cwd())
    record = _data_set(out, preparation).with_suffix(".json")
    if record.exists():
        try:
            noted = Preparation.model_validate_json(record.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise InputError(f"{record} is damaged", "choose another folder with --out") from error
        if noted != wanted:
            raise InputError(f"{out} holds a comparison on other volumes or grids", "choose another folder with --out")
    else:
        out.mkdir(parents=True, exist_ok=True)
        with write_atomically(record) as temporary:
            temporary.write_text(wanted.model_dump_json(indent=2), encoding="utf-8")


def _data_set(out: Path, preparation: Preparation) -> Path:
    return out / (_WITH_LABELS if preparation.target_labels else _WITHOUT_LABELS)


def _prepare(out: Path, preparation: Preparation, report: StepReport, warn: Warn) -> Path:
    """Return the data set in `out`, made unless it exists."""
    folder = _data_set(out, preparation)
    if not folder.exists():
        run_preparation(preparation.below(Path.cwd()), folder, report, warn)
    return folder


def _train(
    folder: Path,
    prepared: Path,
    config: TrainingConfig,
    device: str,
    time_limit_seconds: float,
    report: Emit,
    report_export: StepReport,
) -> None:
    """Train a row, or continue its training, and export the model; do nothing if both are done.

    Raises:
        EndedError: The training was stopped before its end.
        InputError: The training in `folder` has other settings.
    """
    if is_job(folder / "job"):
        job = Job(folder / "job")
        if TrainingSpecification.of(job).config != config:
            raise InputError(f"{job.folder} was trained with other settings", "choose another folder with --out")
    else:
        job = create_job(prepared, folder / "job", config, device)
    if (folder / "bundle").exists() and not _is_unfinished(folder):
        return
    # Remove what earlier versions made from a stopped training, lest it be taken for the result of the whole training.
    (folder / _SCORES).unlink(missing_ok=True)
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    state = train(job, time_limit_seconds=time_limit_seconds, report=report)
    # A stop requested during the last iteration counts as well.
    if state is State.STOPPED or job.stop_requested:
        raise EndedError
    remove_remains(folder)
    export(
        job.folder,
        folder / "bundle",
        name=f"{folder.parent.name}, seed {config.seed}",
        device=device,
        report=report_export,
    )


def _is_unfinished(folder: Path) -> bool:
    """Return whether a row's training was begun but not finished; earlier versions may have scored it all the same."""
    job = folder / "job"
    # A job counts as queued if its events were deleted; its results are then all that is known of it.
    return is_job(job) and Job(job).state() not in (State.FINISHED, State.QUEUED)


def _export_mean(folder: Path, jobs: Sequence[Path], title: str, device: str, report: StepReport) -> None:
    """Export the mean of several trainings' models to a bundle, unless it exists.

    Raises:
        InputError: One of the jobs is gone.
    """
    if (folder / "bundle").exists():
        return
    for job in jobs:
        if not is_job(job):
            raise InputError(
                f"{job} is gone, and with it the model that has part in '{title}'",
                f"leave out --ensemble, or delete {job.parent} to train it again",
            )
    export(jobs[0], folder / "bundle", others=jobs[1:], name=title, device=device, report=report)


def _keep_watched(folder: Path) -> None:
    """Write the training's scores of the monitor volumes to `watched.json`, if there are any."""
    watched = [event.data for event in Job(folder / "job").events()[0] if event.kind == "monitor"]
    if watched:
        with write_atomically(folder / _WATCHED) as temporary:
            temporary.write_text(json.dumps(watched, indent=1) + "\n", encoding="utf-8")


def _done(folder: Path, cases: Sequence[Case]) -> Result | None:
    """Read the result in a row's folder; None if it has no scores or its training is unfinished.

    Raises:
        InputError: The scores are of other volumes, or the settings can't be read.
    """
    path = folder / _SETTINGS
    if not ((folder / _SCORES).exists() and path.exists()) or _is_unfinished(folder):
        return None
    try:
        record = _Record.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        field, message = first_fault(error)
        raise InputError(f"{path} can't be used (at '{field}', {message})", f"move {folder} away") from None
    table = ScoreTable.read(folder / _SCORES)
    if {row.subject for row in table.rows} != set(subjects_of(cases)):
        raise InputError(f"{folder} holds scores of other volumes", "choose another folder with --out")
    variant = variant_of(folder.parent.name, record.title, record.method)
    seeds = record.seeds or tuple(range(record.seed, record.seed + variant.models))
    return Result(variant, record.config, seeds, folder, table)


def _score(
    folder: Path, record: _Record, cases: Sequence[Case], task: Task, preparation: Preparation, device: str
) -> ScoreTable:
    """Segment the cases, in the same regions of interest as in training, and score them."""
    # Labelmaps may be left from an interrupted call, by another version, or of volumes that were stored elsewhere.
    shutil.rmtree(folder / "labelmaps", ignore_errors=True)
    give_back_memory()
    written = segment_files(
        folder / "bundle",
        # Images of different patients may have the same file name, each in its patient's folder.
        [
            Request(case.image, file_name(subject), case.region)
            for case, subject in zip(cases, subjects_of(cases), strict=True)
        ],
        folder / "labelmaps",
        device=inference_device(device),
        region=preparation.roi,
    )
    names = task.names_by_value
    rows = []
    for case, subject, outputs in zip(cases, subjects_of(cases), written, strict=True):
        predicted = read_labelmap(outputs.labelmap, task, task.own_coding, allow_empty=True)
        rows += score_pair(
            subject,
            predicted,
            reference_of(case, task, preparation.target_coding),
            names,
            tolerances=task.tolerances_mm,
        )
    table = ScoreTable(tuple(rows))
    with write_atomically(folder / _SETTINGS) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    table.write(folder / _SCORES)
    return table


def reference_of(case: Case, task: Task, coding: str | None) -> Volume:
    """Read the labelmap that a case is scored against, whose file has the label coding `coding`."""
    if case.label is None:
        raise ValueError(f"{case.image} has no labelmap")
    return read_labelmap(case.label, task, coding, allow_empty=True)
