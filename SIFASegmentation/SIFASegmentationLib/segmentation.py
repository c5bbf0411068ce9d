"""Segment a volume with a model, slice by slice, into a labelmap on the volume's own grid, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .appearance import doubtful_box, learn_appearance, sampling_step
from .bundle import BASELINE_FILE, MODEL_FILE, Bundle
from .components import fill_holes, keep_largest_components
from .contrasts import brightness
from .doubts import Found, Usual
from .errors import InputError
from .pipeline import ahead
from .positions import positions_mm
from .preprocessing import PreparedVolume, prepare_volume
from .probability_maps import ProbabilityMaps
from .quality import Estimate, ExpectedDice
from .regions import BoxMM
from .segmentation_options import DEFAULTS, SegmentationOptions
from .volumes import Volume
from .winograd import with_fast_convolutions

Float32Array = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the number of slices done and the number of all slices."""

BATCH = 4
"""Slices per batch: on a CPU, 8 are hardly faster, and the first progress is seen after twice the time."""
_HALF_CELL = 4
"""Half a cell, in pixels: E reduces slices to cells of 8 x 8 pixels, and C1's map is interpolated between their
centres."""
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SURE_BACKGROUND = 0.95  # Pixels with at least this probability of background do not count for a slice's confidence.


class CancelledError(Exception):
    """The caller asked to stop; nothing was written."""


@dataclass(frozen=True)
class Segmentation:
    """A model's segmentation of a volume.

    Attributes:
        labelmap: Labels (uint8) with the task's values, on the volume's grid.
        probabilities: Probability map of each structure if asked for, else empty.
        confidence: Confidence of each slice of the model's plane, in [0, 1]: mean probability of the predicted class
            over the pixels that are not surely background; 1 if all are, NaN outside the field of view.
        slice_axis: Axis of the labelmap's array along which `confidence` runs, in the order of the array.
        estimates: Dice of each structure by name, estimated without a reference (`quality`); empty for bundles without
            a calibration, for options that are not `calibrated`, and for the other domain.
        found: Volume, position and brightness of each structure by name, to check them for plausibility.
    """

    labelmap: Volume
    probabilities: ProbabilityMaps
    confidence: Float32Array
    slice_axis: int
    estimates: dict[str, Estimate]
    found: dict[str, Found]


class Segmentor:
    """A bundle, loaded and ready for any number of volumes."""

    def __init__(self, bundle: Bundle, device: str = "auto", threads: int = 0, *, baseline: bool = False) -> None:
        """
        Args:
            bundle: The model.
            device: auto, cpu or cuda; auto takes CUDA if ONNX Runtime has it.
            threads: Number of CPU threads; 0 for all cores.
            baseline: Use the bundle's model without adaptation; volumes are preprocessed in the same way.

        Raises:
            InputError: The device is not available, the bundle lacks the baseline asked for, or the model is damaged or
                not as its manifest says.
        """
        summary = bundle.manifest.baseline if baseline else bundle.manifest
        if summary is None:
            raise InputError(
                f"The bundle {bundle.path} has no model without adaptation",
                "export it with --baseline, or segment without it",
            )
        self._file = BASELINE_FILE if baseline else MODEL_FILE
        quality = summary.quality
        self._quality = quality if quality is not None and quality.of_decided else None
        # The baseline is only there to compare with, so its structures are not checked for plausibility.
        self._usual = Usual() if baseline else bundle.manifest.usual
        self.bundle = bundle
        self.manifest = bundle.manifest
        model = bundle.read(self._file)
        try:
            self._session = start_session(model, device, threads)
        except InputError:
            raise
        except Exception as error:  # ONNX Runtime raises many types, which have no base class of their own
            raise InputError(
                f"{bundle.path / self._file} can't be loaded ({_first_line(error)})", "export it again"
            ) from error
        self._check_model()

    @property
    def device(self) -> str:
        """Where the model runs: cpu or cuda."""
        return device_of(self._session)

    def predict(self, slices: Float32Array) -> Float32Array:
        """Class probabilities (b, K, size, size) of slices (b, size, size) in [-1, 1].

        Slices always cover the whole grid: the networks know positions from its border and padding, so a crop would
        give another result.

        Raises:
            InputError: The GPU does not have enough memory.
            MemoryError: The machine does not have enough memory.
        """
        try:
            (probabilities,) = self._session.run(None, {self._session.get_inputs()[0].name: slices[:, np.newaxis]})
        except Exception as error:  # of any type, as in `__init__`
            if "alloc" not in str(error).lower():
                raise
            if self.device == "cpu":
                raise MemoryError(_first_line(error)) from error
            raise InputError(
                f"The GPU's memory does not hold {len(slices)} slices",
                "close other programs that use it, or choose the device cpu",
            ) from error
        result: Float32Array = probabilities
        return result

    def predict_refined(self, slices: Float32Array) -> Float32Array:
        """Average `predict` with the prediction for a copy shifted by half a cell along both axes, shifted back.

        Where `predict` interpolates between the centres of four cells, the copy has the centre of a cell. Pixels that
        are shifted out of the grid keep the prediction of `predict`.
        """
        moved = np.full_like(slices, -1)
        moved[..., _HALF_CELL:, _HALF_CELL:] = slices[..., :-_HALF_CELL, :-_HALF_CELL]
        mean = self.predict(slices)
        mean[..., :-_HALF_CELL, :-_HALF_CELL] += self.predict(moved)[..., _HALF_CELL:, _HALF_CELL:]
        mean[..., :-_HALF_CELL, :-_HALF_CELL] /= 2
        return mean

    def segment(
        self,
        volume: Volume,
        options: SegmentationOptions = DEFAULTS,
        *,
        region: BoxMM | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Segmentation:
        """Segment one volume.

        Args:
            volume: Image of the modality that the model was adapted to.
            options: How to segment.
            region: Field of view in mm, LPS; found automatically unless given.
            progress: Called after each batch of slices.
            cancelled: Called after each batch of slices; segmentation ends if it returns True.

        Raises:
            InputError: The region lies outside the volume, the volume is constant in its field of view, or the GPU does
                not have enough memory.
            MemoryError: The machine does not have enough memory.
            CancelledError: `cancelled` returned True.
        """
        prepared = prepare_volume(volume, self.manifest.preprocessing[options.domain or self.manifest.domain], region)
        placement = prepared.placement
        labels, labels_view = placement.canvas(np.uint8)
        structures = self.manifest.task.structures
        maps = ProbabilityMaps([s.name for s in structures if options.probabilities], placement, volume.name)
        every_slice = np.full(volume.array.shape[placement.orientation.axes[0]], np.nan, np.float32)
        confidence = every_slice[placement.field_of_view.slices[0]]
        expected = ExpectedDice(self.manifest.classes)
        stage = self._stage()
        predictions = self._predictions(prepared, options.refine, confidence, progress, cancelled)
        decided = self._decided(prepared, predictions) if options.appearance else self._restored(prepared, predictions)
        for slab, probable in stage(decided):
            if cancelled():
                raise CancelledError
            labels_view[slab] = predicted_labels = probable.argmax(1)
            expected.add(probable, predicted_labels)
            maps.add(slab, probable)
        parts = self.manifest.task.parts
        removed = keep_largest_components(labels, parts) if options.largest_component else dict.fromkeys(parts, 0)
        filled = fill_holes(labels, parts) if options.fill_holes else dict.fromkeys(parts, 0)
        voxels = expected.predicted
        millilitres = volume.geometry.voxel_volume_ml
        labelmap = Volume(labels, volume.geometry, volume.name)
        # Calibration and contrasts hold for the model's own domain; the other domain's intensities have another unit.
        own_domain = options.domain in (None, self.manifest.domain)
        positions = positions_mm(labelmap, self.manifest.task) if self._usual.positions_mm else {}
        bright = self._brightness(prepared, labels_view) if self._usual.contrasts and own_domain else {}
        return Segmentation(
            labelmap=labelmap,
            probabilities=maps,
            confidence=every_slice[::-1] if placement.orientation.flipped[0] else every_slice,
            slice_axis=placement.orientation.axes[0],
            estimates=self._estimates(expected) if options.calibrated and own_domain else {},
            found={
                s.name: Found(
                    ml=(voxels[s.value] - removed[s.value] + filled[s.value]) * millilitres,
                    kept=1 - removed[s.value] / max(int(voxels[s.value]), 1),
                    position_mm=positions.get(s.name),
                    brightness=bright.get(s.name),
                )
                for s in structures
            },
        )

    def _stage(self) -> Callable[[Iterable[Any]], Iterator[Any]]:
        """Wrapper of a stage's iterator that lets it work ahead in a thread beside a GPU.

        On a CPU, stages would only compete for its cores, and run one after the other.
        """
        return ahead if self.device == "cuda" else iter

    def _predictions(
        self,
        prepared: PreparedVolume,
        refine: bool,
        confidence: Float32Array,
        progress: Progress | None,
        cancelled: Callable[[], bool],
    ) -> Iterator[tuple[slice, Float32Array, Float32Array]]:
        """Yield each slab with its slices (b, size, size) and their class probabilities (b, K, size, size).

        The slices' confidence is written into `confidence`.
        """
        stage, predict = self._stage(), self.predict_refined if refine else self.predict
        starts = range(0, len(prepared), BATCH)
        slabs = [slice(start, min(start + BATCH, len(prepared))) for start in starts]
        batches = stage((slab, prepared.batch(slab.start, slab.stop)) for slab in slabs)
        for slab, slices, predicted in stage((slab, slices, predict(slices)) for slab, slices in batches):
            if cancelled():
                raise CancelledError
            confidence[slab] = slice_confidence(predicted)
            yield slab, slices, predicted
            if progress is not None:
                progress(slab.stop, len(prepared))

    @staticmethod
    def _restored(
        prepared: PreparedVolume, predictions: Iterable[tuple[slice, Float32Array, Float32Array]]
    ) -> Iterator[tuple[slice, Float32Array]]:
        """Yield each slab with its class probabilities (b, K, rows, columns) on the field of view."""
        for slab, _, predicted in predictions:
            yield slab, prepared.placement.restore_probabilities(predicted)

    def _decided(
        self, prepared: PreparedVolume, predictions: Iterable[tuple[slice, Float32Array, Float32Array]]
    ) -> Iterator[tuple[slice, Float32Array]]:
        """Like `_restored`, with probabilities corrected by the volume's intensities (`appearance`).

        The appearance is learned on the networks' grid and applied to the volume's own pixels.
        """
        placement = prepared.placement
        classes, size = self.manifest.classes, placement.size
        step = sampling_step(len(prepared), classes, size)
        sampled: list[tuple[Float32Array, Float32Array]] = []
        # The appearance is known only after the last slab, so all probabilities are kept until then: only in the box
        # where any structure is probable, and in half precision, which is enough.
        kept: list[tuple[slice, tuple[slice, slice], NDArray[np.float16]]] = []
        for slab, slices, predicted in predictions:
            sampled.append((predicted[..., ::step, ::step].copy(), slices[:, ::step, ::step].copy()))
            box = doubtful_box(predicted)
            kept.append((slab, box, predicted[..., *box].astype(np.float16)))
        row_spacing, column_spacing = placement.grid_spacing
        prior, images = (np.concatenate(parts) for parts in zip(*sampled, strict=True))
        appearance = learn_appearance(prior, images, (step * row_spacing, step * column_spacing))
        for slab, box, probabilities in kept:
            whole = np.zeros((len(probabilities), classes, size, size), np.float32)
            whole[:, 0] = 1
            whole[..., *box] = probabilities
            probable = placement.restore_probabilities(whole)
            appearance.decide(probable, prepared.intensities(slab), placement.spacings[1:])
            yield slab, probable

    def _brightness(self, prepared: PreparedVolume, labels: NDArray[np.uint8]) -> dict[str, float]:
        """Median brightness of the structures in the field of view, by name, in the networks' range.

        The normalisation is monotonic, so the median can be normalised instead of the voxels.
        """
        own = brightness(prepared.voxels, labels, self.manifest.task)
        values = prepared.statistics.normalize(np.array(list(own.values())), prepared.settings)
        return dict(zip(own, values.tolist(), strict=True))

    def _estimates(self, expected: ExpectedDice) -> dict[str, Estimate]:
        if self._quality is None:
            return {}
        by_value = expected.of_structures()
        return {
            s.name: self._quality.estimate(float(by_value[s.value - 1]), s.name) for s in self.manifest.task.structures
        }

    def _check_model(self) -> None:
        size = self.manifest.preprocessing[self.manifest.domain].size
        shapes = [node.shape[1:] for node in (*self._session.get_inputs(), *self._session.get_outputs())]
        expected = [[1, size, size], [self.manifest.classes, size, size]]
        if shapes != expected:
            raise InputError(
                f"{self.bundle.path / self._file} maps slices {shapes[0]} to {shapes[-1]}, its manifest says "
                f"{expected[0]} to {expected[1]}",
                "export it again",
            )


def slice_confidence(probabilities: Float32Array) -> Float32Array:
    """Confidence (b,) of each slice, as in `Segmentation`, from class probabilities (b, K, rows, columns)."""
    top = probabilities.max(axis=1)
    considered = probabilities[:, 0] < _SURE_BACKGROUND
    counts = considered.sum(axis=(1, 2))
    sums = np.where(considered, top, 0).sum(axis=(1, 2))
    confidence: Float32Array = np.where(counts > 0, sums / np.maximum(counts, 1), 1).astype(np.float32)
    return confidence


def start_session(model: bytes, device: str, threads: int = 0) -> onnxruntime.InferenceSession:
    """Load a model into ONNX Runtime on a device: auto, cpu or cuda.

    Raises:
        InputError: The device is unknown or not available.
    """
    providers = providers_of(device)
    session = open_session(model, providers, threads)
    if _CUDA not in providers or device_of(session) == "cuda":
        return session
    # ONNX Runtime lists the providers that it was built with. If CUDA's libraries are missing, it silently falls back
    # on the CPU, where the model as it is would be slow.
    if device == "cuda":
        raise InputError(
            "ONNX Runtime can't start CUDA here",
            "install the versions of CUDA and cuDNN that it was built for, or choose the device cpu",
        )
    return open_session(model, [_CPU], threads)


def open_session(model: bytes, providers: Sequence[str], threads: int = 0) -> onnxruntime.InferenceSession:
    """Load a model into ONNX Runtime with these execution providers.

    The model is passed as bytes, so that exactly what was checked is run, and it can't refer to other files. On a CPU
    its convolutions are rewritten into a fast form (`winograd`); GPUs have fast ones of their own.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if list(providers) == [_CPU]:
        fast = with_fast_convolutions(model)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(values) for values in fast.filters.values()]
        options.add_external_initializers(list(fast.filters), values)
        model = fast.model
    return onnxruntime.InferenceSession(model, options, providers=list(providers))


def device_of(session: onnxruntime.InferenceSession) -> str:
    """The device that a session runs on: cpu or cuda."""
    return "cuda" if _CUDA in session.get_providers() else "cpu"


def providers_of(device: str) -> list[str]:
    """Execution providers of ONNX Runtime for a device: auto, cpu or cuda.

    Raises:
        InputError: The device is unknown or not available.
    """
    available = onnxruntime.get_available_providers()
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"The device '{device}' is unknown", "choose auto, cpu or cuda")
    if device == "cuda" and _CUDA not in available:
        raise InputError("ONNX Runtime has no CUDA here", "install onnxruntime-gpu, or choose the device cpu")
    return [_CUDA, _CPU] if device != "cpu" and _CUDA in available else [_CPU]


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
