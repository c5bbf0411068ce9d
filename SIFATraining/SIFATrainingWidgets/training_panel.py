"""The lower half of the training window: the training that is followed, actions on it, and the list of trainings."""

from __future__ import annotations

import html
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from SIFASegmentationLib.bundle_files import is_bundle
from SIFASegmentationLib.errors import InputError
from SIFASegmentationLib.jobs import BUNDLE_FOLDER, ENDED, LOG_FILE, Event, Job, State
from SIFASegmentationLib.work import Work
from SIFASegmentationWidgets import models
from SIFASegmentationWidgets.button_work import ButtonWork
from SIFASegmentationWidgets.dependencies import ensure_packages, held
from SIFASegmentationWidgets.follower import JobFollower, last_words
from SIFASegmentationWidgets.messages import allow, warn
from SIFASegmentationWidgets.processes import start_fault
from SIFASegmentationWidgets.sample_data import REQUIREMENTS as BUNDLE_REQUIREMENTS

from .known_jobs import forget_job, known_jobs, remember_job, state_of
from .monitor import TrainingMonitor, status_text


class Trainings(Protocol):
    """Interface of what runs trainings, which the module's logic implements."""

    def ensure_dependencies(self) -> None:
        """Install missing packages."""

    def resume(self, job: Job) -> None:
        """Start the process of a job."""

    def stop(self, job: Job) -> None:
        """Ask a training to save its state and end."""

    def kill(self, job: Job) -> None:
        """Kill a training."""

    def process_of(self, job: Job) -> subprocess.Popen[bytes] | None:
        """Return the process that was started here last for a job, if it still is the job's."""


class TrainingPanel:
    """Follows one training at a time, or none."""

    def __init__(
        self, ui: Any, window: Any, trainings: Trainings, say: Callable[..., None], chosen: Callable[[], None]
    ) -> None:
        """
        Args:
            ui: The widgets of the module's `.ui` file by name, including those of the sections Training and Model.
            window: The widget that contains all of them.
            trainings: Resumes, stops and kills trainings.
            say: Shows a text on the status line, as an error with `error=True`.
            chosen: Called when the user has chosen another training from the list, or none.
        """
        self._ui, self._window, self._trainings, self._say, self._chosen = ui, window, trainings, say, chosen
        self.job: Job | None = None
        self._monitor = TrainingMonitor(ui)
        self._follower: JobFollower | None = None
        self._has_model: bool | None = None
        self._saving = ButtonWork(ui.saveModelButton, self._show_model)
        self._resumed: tuple[Path, int] | None = None  # Folder, and size of the events then, of a job just resumed.
        for button, method in (
            (ui.openJobButton, self._choose_folder), (ui.stopButton, self._stop), (ui.resumeButton, self._resume),
            (ui.killButton, self._kill), (ui.forgetButton, self._forget), (ui.openFolderButton, self._open_folder),
            (ui.saveModelButton, self._choose_model_file),
        ):  # fmt: skip
            button.connect("clicked(bool)", method)
        ui.jobsComboBox.connect("activated(int)", self._select)

    def close(self) -> None:
        """Stop following and saving, for good; trainings continue."""
        self._saving.stop()
        self._unfollow()
        self._monitor.close()

    def show_running(self) -> None:
        """Follow the last used training that has not ended, if there is one."""
        self.refresh_list()
        self.show(next((job for job in known_jobs() if state_of(job) not in ENDED), None))

    def enter(self) -> None:
        """Update to what happened while another module was shown."""
        self.refresh_list()
        # Another window may have resumed the job since.
        ended = self._follower is not None and self._follower.state in ENDED
        if self.job is not None and ended and self.job.is_alive():
            self.show(self.job)

    # The training that is shown ------------------------------------------------------------------------------------

    @property
    def bundle(self) -> Path | None:
        """Folder of the model that the training made; None if there is none yet."""
        folder = self.job.folder / BUNDLE_FOLDER if self.job is not None else None
        return folder if folder is not None and is_bundle(folder) else None

    def show(self, job: Job | None) -> None:
        """Follow a training, or show none."""
        self._unfollow()
        if job is None or (self._resumed is not None and self._resumed[0] != job.folder):
            self._resumed = None
        self.job = job
        self._monitor.show(job)
        self._ui.progressSection.collapsed = job is None
        self._select_in_list(job)
        if job is not None:
            self._follower = JobFollower(job, self._events, self._ended, self._trainings.process_of(job))
            self._follower.poll()
            self._follower.start()
        self.show_state()

    def open(self, folder: Path) -> None:
        """Show the training in a folder; if there is none, say so on the status line."""
        try:
            job = Job(folder)
        except InputError as error:
            self._say(str(error), error=True)
            return
        remember_job(job)
        self.refresh_list()
        self.show(job)

    def _unfollow(self) -> None:
        if self._follower is not None:
            self._follower.stop()
            self._follower = None

    def _events(self, events: list[Event]) -> None:
        self._monitor.add(events)
        self.show_state()

    def _ended(self, _state: State) -> None:
        self.show_state()
        self.refresh_list()

    def show_state(self) -> None:
        """Show everything about the job except for what the monitor shows."""
        self._show_warnings()
        behind = self._follower is not None and self._follower.behind
        # While the follower is behind, the last event it reported may be an old one.
        state = self._follower.state if self._follower is not None and not behind else None
        waiting = self.job is not None and self._waits_for(self.job)
        self._enable_buttons(state, running=state is not None and state not in ENDED and not waiting, waiting=waiting)
        self._show_model()
        if behind:
            self._say(_("Reading its progress so far..."))
        if self.job is not None and state is not None:
            self._tell_state(self.job, state)

    def _waits_for(self, job: Job) -> bool:
        """Whether a job was just resumed and has not written any event since."""
        return self._resumed is not None and _size_of(job) == self._resumed[1]

    def _is_at_work(self, job: Job) -> bool:
        """Whether a process of this window is running for a job, whatever the job's last event says.

        A process just started may not have written an event yet, and one that was stopped may not have ended yet.
        """
        process = self._trainings.process_of(job)
        return process is not None and process.poll() is None

    def _enable_buttons(self, state: State | None, *, running: bool, waiting: bool) -> None:
        ui, job = self._ui, self.job
        at_work = job is not None and self._is_at_work(job)
        ui.progressSection.visible = job is not None
        for button in (ui.stopButton, ui.resumeButton, ui.killButton, ui.openFolderButton, ui.forgetButton):
            button.visible = job is not None
        idle = _("It is not running.")
        stopping = _("It is stopping already: it finishes its iteration and saves.")
        allow(ui.stopButton, idle if not running else stopping if job is not None and _is_to_stop(job) else "")
        allow(ui.killButton, "" if running or (waiting and at_work) else idle)
        allow(ui.resumeButton, _reason_not_to_resume(state, at_work=at_work))
        allow(ui.forgetButton, _("It is running: stop it first.") if running else "")
        ui.progressBar.visible = running
        progress = self._monitor.latest.get("progress", {})
        # Counts iterations, or volumes to read; a range of 0 to 0 makes a busy indicator.
        ui.progressBar.setRange(0, progress.get("iterations", progress.get("total", 0)))
        ui.progressBar.setValue(progress.get("iteration", progress.get("done", 0)))

    def _show_model(self) -> None:
        ui, bundle = self._ui, self.bundle
        ui.modelSection.visible = bundle is not None
        if self._has_model != (bundle is not None):
            # Only when this changes, since the user may have collapsed the section.
            self._has_model = bundle is not None
            ui.modelSection.collapsed = not self._has_model
        for button in (ui.useButton, ui.fineTuneButton):
            button.enabled = bundle is not None
        # While a model is being saved, a click cancels that.
        ui.saveModelButton.enabled = bundle is not None or self._saving.is_running
        ui.cardLabel.text = _card(bundle) if bundle is not None else ""

    def _tell_state(self, job: Job, state: State) -> None:
        index = self._ui.jobsComboBox.findData(str(job.folder))
        if index >= 0:
            self._ui.jobsComboBox.setItemText(index, _title(job, state))
        if not self._waits_for(job):
            self._resumed = None
        if self._resumed is not None and self._is_at_work(job):
            # Until the new process writes an event, the last one is from the process before.
            self._say(_("Resuming..."))
        elif self._resumed is not None:
            log = job.folder / LOG_FILE
            self._say(_("It could not be resumed: see {log}.").format(log=log), error=True)
        elif state in (State.FAILED, State.LOST):
            self._say(f"{state}: {last_words(job)}", error=True)
        elif state not in ENDED and _is_to_stop(job):
            self._say(_("Stopping: it finishes its iteration and saves."))
        else:
            self._say(status_text(self._monitor.latest, str(state)))

    def _show_warnings(self) -> None:
        warnings = self._monitor.warnings
        warn(self._ui.warningsLabel, warnings)

    # Actions on the training ---------------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self.job is None:
            return
        try:
            self._trainings.stop(self.job)
        except OSError as error:
            problem = _("{folder} can't be written to ({reason}): press End now instead.")
            self._say(problem.format(folder=self.job.folder, reason=error.strerror), error=True)
        else:
            self.show_state()

    def _resume(self) -> None:
        job = self.job
        if job is None:
            return
        problem = start_fault()
        try:
            with held(self._window):
                self._trainings.ensure_dependencies()
            self._resumed = job.folder, _size_of(job)
            self._trainings.resume(job)
            problem = ""
        except InputError as error:
            problem = str(error)
        finally:
            if problem:
                self._resumed = None
                self._say(problem, error=True)
        if not problem:
            self.show(job)

    def _kill(self) -> None:
        if self.job is None:
            return
        question = _("End {name} immediately? Progress since its last checkpoint is lost; Stop would save it first.")
        if not slicer.util.confirmOkCancelDisplay(question.format(name=self.job.folder.name)):
            return
        try:
            self._trainings.kill(self.job)
        except InputError as error:
            self._say(str(error), error=True)
            return
        if self._follower is not None:
            self._follower.poll()

    def _forget(self) -> None:
        if self.job is not None:
            forget_job(self.job)
            self.show(None)
            self.refresh_list()
            self._chosen()

    def _open_folder(self) -> None:
        if self.job is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.job.folder)))

    def _choose_model_file(self) -> None:
        if self._saving.is_running:
            self._saving.stop()
            self._say(_("Nothing was saved."))
        elif self.job is not None:
            name = f"{self.job.folder.name}.zip"
            path = qt.QFileDialog.getSaveFileName(
                self._ui.saveModelButton, _("Save the model"), name, _("Models") + " (*.zip)"
            )
            if path:
                self.save_model(Path(path))

    def save_model(self, path: Path) -> None:
        """Start to save the model of the shown training as one zip file; errors are shown on the status line."""
        bundle = self.bundle
        assert bundle is not None
        try:
            with held(self._window):
                # The model may have been trained in another Slicer, which had the packages.
                ensure_packages(("pydantic",), BUNDLE_REQUIREMENTS, "SIFA Training")
        except InputError as error:
            self._say(str(error), error=True)
        else:
            self._say(_("Saving {path}...").format(path=path))
            self._saving.start(self._save(bundle, path))

    def _save(self, bundle: Path, path: Path) -> Work[None]:
        from SIFASegmentationLib.bundle import pack_bundle_in_pieces  # noqa: PLC0415

        try:
            yield from pack_bundle_in_pieces(bundle, path)
        except InputError as error:
            self._say(str(error), error=True)
        except Exception:  # such as a lack of memory
            logging.exception("The model could not be saved.")
            self._say(_("{path} could not be saved: see the error log.").format(path=path), error=True)
        else:
            self._say(_("Saved {path}.").format(path=path))

    # The list ------------------------------------------------------------------------------------------------------

    def refresh_list(self) -> None:
        """Update the list of trainings and their states."""
        box = self._ui.jobsComboBox
        box.clear()
        box.addItem(_("New training"), "")
        for job in known_jobs():
            box.addItem(_title(job, state_of(job)), str(job.folder))
        self._select_in_list(self.job)

    def _select_in_list(self, job: Job | None) -> None:
        box = self._ui.jobsComboBox
        box.setCurrentIndex(max(0, box.findData(str(job.folder))) if job else 0)

    def _select(self, index: int) -> None:
        folder = self._ui.jobsComboBox.itemData(index)
        try:
            job = Job(Path(folder)) if folder else None
        except InputError as error:
            # The folder has disappeared since the list was made.
            self.refresh_list()
            self._say(str(error), error=True)
            return
        self.show(job)
        self._chosen()

    def _choose_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self._ui.openJobButton, _("Folder of a training"))
        if folder:
            self.open(Path(folder))


def _size_of(job: Job) -> int:
    """Return the size of a job's events file in bytes; 0 if there is none."""
    try:
        return job.events_path.stat().st_size
    except OSError:
        return 0


def _is_to_stop(job: Job) -> bool:
    """Whether a job was asked to stop; False if its folder can't be read."""
    try:
        return job.stop_requested
    except OSError:
        return False


def _reason_not_to_resume(state: State | None, *, at_work: bool) -> str:
    """Return why a training can't be resumed from its checkpoint; empty if it can."""
    if at_work:
        return _("Its process is still running.")
    if state is None:
        return _("Its state is being read.")
    if state is State.FINISHED:
        return _("It has finished.")
    if state in (State.STOPPED, State.FAILED, State.LOST):
        return ""
    return _("It is running.")


def _title(job: Job, state: State) -> str:
    return f"{job.folder.name} ({state})"


def _card(bundle: Path) -> str:
    try:
        return models.model_card(bundle)
    except (InputError, ImportError) as error:
        return html.escape(str(error))
