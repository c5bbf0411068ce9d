"""Random anatomies: which tissue lies where in a synthetic patient.

Positions are in mm, LPS, with the origin in the middle of the trunk: x points to the patient's left, y to the back, z
to the head. An anatomy does not depend on whether it is then imaged by CT or MR.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto

import numpy as np
from numpy.typing import NDArray

from .phantom_shapes import Layer, Shape, ellipsoid, half_space, rotation, trunk, tube

Rng = np.random.Generator

_VALVE_MM = 3.0  # Thickness of the septa between ventricle, atrium and aorta.


class Tissue(IntEnum):
    """Tissue at a point."""

    AIR = 0
    FAT = auto()
    MUSCLE = auto()
    BONE = auto()
    MARROW = auto()
    CORD_FLUID = auto()
    LUNG = auto()
    LIVER = auto()
    KIDNEY = auto()
    SPLEEN = auto()
    PANCREAS = auto()
    BILE = auto()
    ARTERY = auto()
    VEIN = auto()
    LIVER_VESSEL = auto()
    STOMACH = auto()
    BOWEL_WALL = auto()
    BOWEL_CONTENT = auto()
    GAS = auto()
    LEFT_BLOOD = auto()
    RIGHT_BLOOD = auto()
    MYOCARDIUM = auto()
    TABLE = auto()


def abdomen(rng: Rng) -> list[Layer]:
    """Draw an upper abdomen: structures 1 liver, 2 right kidney, 3 left kidney, 4 spleen, as in the task `abdomen`."""
    vary = _Variation(rng)
    wide, deep = vary.about(152, 0.10), vary.about(105, 0.12)
    body = trunk(wide, deep, vary.about(2.4, 0.1), rng.uniform(-8e-4, 8e-4))
    fat, wall = rng.uniform(8, 24), rng.uniform(9, 14)
    cavity = body.grown(-fat - wall)
    # Organs follow the trunk: a wide patient has them further apart.
    place = _placer(wide / 152, deep / 105, vary.about(1, 0.06), vary)

    layers = [
        Layer(body, Tissue.FAT),
        Layer(body.grown(-fat), Tissue.MUSCLE),
        Layer(cavity, Tissue.FAT),
        *_spine(rng, deep),
        *_ribs(rng, wide - fat - wall / 2, deep - fat - wall / 2),
        *_psoas(rng),
        Layer(tube([(14, 32, -200), (8, 30, 200)], vary.about(9.5, 0.15)), Tissue.ARTERY),
        Layer(tube([(-18, 28, -200), (-22, 24, 200)], vary.about(10.5, 0.15)), Tissue.VEIN),
        *_bowel(rng, cavity, place),
        *_stomach(rng, cavity, place),
    ]
    pancreas = tube([place(-25, -5, -5), place(5, -2, 8), place(45, 15, 20)], [11, 8, 7])
    right_lobe = ellipsoid(place(-72, -2, 28), vary.radii(62, 70, 66), vary.turn(8))
    left_lobe = ellipsoid(place(-8, -42, 42), vary.radii(62, 34, 36), vary.turn(12))
    liver = right_lobe.blended(left_lobe, 40) & cavity.grown(-1)
    fossa = ellipsoid(place(-48, -48, -12), vary.radii(15, 17, 24, 0.2), vary.turn(20))
    liver -= fossa.grown(3)
    spleen = ellipsoid(place(94, 36, 44), vary.radii(31, 45, 48, 0.12), vary.turn(10)) & cavity.grown(-1)
    spleen -= ellipsoid(place(56, 18, 40), vary.radii(22, 28, 40))
    kidneys = [_kidney(rng, place, side, vary) for side in (-1, 1)]
    room = kidneys[0][0].grown(3) | kidneys[1][0].grown(3)
    layers += [
        Layer(pancreas, Tissue.PANCREAS),
        Layer(liver - room, Tissue.LIVER, 1),
        *(Layer(vessel, Tissue.LIVER_VESSEL, 1, over=(Tissue.LIVER,)) for vessel in _liver_vessels(rng, place)),
        Layer(fossa, Tissue.BILE),
        Layer(spleen - room, Tissue.SPLEEN, 4),
    ]
    for (kidney, sinus), value in zip(kidneys, (2, 3), strict=True):
        layers += [Layer(kidney, Tissue.KIDNEY, value), Layer(sinus, Tissue.FAT, 0, over=(Tissue.KIDNEY,))]
    dome = ellipsoid(place(-70, 0, 118), (70, 75, 36)) | ellipsoid(place(75, 5, 116), (62, 75, 40))
    soft = (Tissue.FAT, Tissue.BOWEL_WALL, Tissue.BOWEL_CONTENT, Tissue.STOMACH)
    return [*layers, Layer(dome & cavity, Tissue.LUNG, over=soft)]


def cardiac(rng: Rng) -> list[Layer]:
    """Draw a chest with a heart: structures 1 AA, 2 LAC, 3 LVC, 4 MYO, as in the task `cardiac`.

    The valves are drawn as thin septa, so that every cavity ends at a visible boundary.
    """
    vary = _Variation(rng)
    wide, deep = vary.about(155, 0.08), vary.about(108, 0.08)
    body = trunk(wide, deep, 2.4, 0.0)
    fat, wall = rng.uniform(6, 18), rng.uniform(12, 18)
    cavity = body.grown(-fat - wall)
    place = _placer(1.0, 1.0, vary.about(1, 0.05), vary)
    turn = rotation((rng.normal(0, 5), rng.normal(0, 5), rng.normal(0, 6)))
    towards_apex = turn @ np.array([0.62, -0.58, -0.53])

    centre = np.asarray(place(24, -10, -18))
    long_axis = _frame(towards_apex)
    cavity_radii = vary.radii(22, 21, 43)
    wall_thickness = rng.uniform(10.5, 13)
    chamber = ellipsoid(centre, cavity_radii, long_axis)
    valves = centre - towards_apex * cavity_radii[2] * 0.6
    ventricle = chamber & half_space(valves, -towards_apex)
    myocardium = chamber.grown(wall_thickness) & half_space(valves, -towards_apex)
    behind_valves = half_space(valves - towards_apex * _VALVE_MM, towards_apex)
    atrium = ellipsoid(valves + np.array([2, 32, 16]), vary.radii(33, 24, 28, 0.1), vary.turn(8))
    root = valves + np.array([-16, -8, 8])
    aorta = tube([root, root + np.array([-12, -6, 30]), root + np.array([-10, -2, 120])], vary.about(15.5, 0.1))
    aorta &= behind_valves
    atrium = (atrium & behind_valves) - aorta.grown(_VALVE_MM)
    right_ventricle = ellipsoid(place(-14, -42, -20), vary.radii(36, 25, 40), vary.turn(10))
    right_atrium = ellipsoid(place(-50, 2, 0), vary.radii(25, 29, 32), vary.turn(10))
    pulmonary = tube([place(8, -42, 14), place(18, -24, 42), place(20, 16, 58)], vary.about(11.5, 0.12))
    pericardium = ellipsoid(place(2, -8, -10), vary.radii(78, 60, 68)) | ellipsoid(place(0, 10, 70), (40, 46, 56))
    liver = ellipsoid(place(-45, -5, -120), (95, 80, 48)) | ellipsoid(place(60, -5, -126), (60, 70, 42))
    apart = myocardium.grown(2) | atrium.grown(4) | aorta.grown(4)
    return [
        Layer(body, Tissue.FAT),
        Layer(body.grown(-fat), Tissue.MUSCLE),
        Layer(cavity, Tissue.LUNG),
        Layer(pericardium & cavity, Tissue.FAT),
        *_spine(rng, deep),
        *_ribs(rng, wide - fat - wall / 2, deep - fat - wall / 2),
        Layer(tube([(0, -deep + fat + 10, -60), (0, -deep + fat + 8, 90)], 9), Tissue.BONE),
        Layer(liver & cavity, Tissue.LIVER),
        Layer(tube([place(26, 58, -200), place(22, 60, 200)], vary.about(11, 0.12)), Tissue.LEFT_BLOOD),
        Layer(tube([place(-46, 2, 20), place(-42, -2, 200)], vary.about(9, 0.15)), Tissue.RIGHT_BLOOD),
        *(
            layer
            for cavity_of_right, margin in ((pulmonary, 1.5), (right_ventricle, 3.5), (right_atrium, 2))
            for layer in (
                Layer(cavity_of_right.grown(margin), Tissue.MUSCLE),
                Layer(cavity_of_right - apart, Tissue.RIGHT_BLOOD),
            )
        ),
        Layer(atrium.grown(3), Tissue.MUSCLE),
        Layer(atrium, Tissue.LEFT_BLOOD, 2),
        Layer(aorta.grown(3), Tissue.MUSCLE),
        Layer(aorta, Tissue.LEFT_BLOOD, 1),
        Layer(myocardium, Tissue.MYOCARDIUM, 4),
        Layer(ventricle, Tissue.LEFT_BLOOD, 3),
    ]


class _Variation:
    """Random departures from the mean anatomy."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng

    def about(self, mean: float, spread: float) -> float:
        """Draw uniformly within the relative `spread` of the mean."""
        return float(mean * self.rng.uniform(1 - spread, 1 + spread))

    def radii(self, x: float, y: float, z: float, spread: float = 0.1) -> tuple[float, float, float]:
        return self.about(x, spread), self.about(y, spread), self.about(z, spread)

    def turn(self, degrees: float) -> NDArray[np.float64]:
        """Draw a rotation (3, 3) about all axes, with this standard deviation of each angle."""
        return rotation(self.rng.normal(0, degrees, 3))


Placer = Callable[[float, float, float], tuple[float, float, float]]


def _placer(x: float, y: float, z: float, vary: _Variation) -> Placer:
    """Map from the mean anatomy to this patient: positions are scaled, shifted together, and jittered one by one."""
    shift = vary.rng.normal(0, (3, 3, 8))

    def place(px: float, py: float, pz: float) -> tuple[float, float, float]:
        own = vary.rng.normal(0, 3.0, 3)
        return px * x + shift[0] + own[0], py * y + shift[1] + own[1], pz * z + shift[2] + own[2]

    return place


def _frame(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation (3, 3) whose third column has the direction `axis`."""
    third = axis / np.linalg.norm(axis)
    first = np.cross(third, (0.0, 0.0, 1.0))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], axis=1)


def _spine(rng: Rng, deep: float) -> list[Layer]:
    y = 0.58 * deep + rng.normal(0, 2)
    radius = rng.uniform(17, 21)
    back = y + radius + 7
    process = tube([(0, back + 6, -200), (0, back + 6, 200)], 4.5)
    wings = [tube([(side * 8, back - 2, -200), (side * 14, back + 2, 200)], 5) for side in (-1, 1)]
    return [
        *(Layer(bone, Tissue.BONE) for bone in (process, *wings)),
        Layer(tube([(0, y, -200), (0, y, 200)], radius), Tissue.BONE),
        Layer(tube([(0, y, -200), (0, y, 200)], radius - 3), Tissue.MARROW),
        Layer(tube([(0, back, -200), (0, back, 200)], 7.5), Tissue.CORD_FLUID),
    ]


def _ribs(rng: Rng, wide: float, deep: float) -> list[Layer]:
    """Ribs: slanted rings in the wall, open in front."""
    angles = np.radians(np.linspace(-60, 240, 16))
    ribs = []
    for z in np.arange(-130, 190, rng.uniform(24, 30)):
        path = np.stack([wide * np.cos(angles), deep * np.sin(angles), z + 30 * np.sin(angles)], axis=1)
        ribs.append(Layer(tube(path, rng.uniform(4, 5.5)), Tissue.BONE))
    return ribs


def _psoas(rng: Rng) -> list[Layer]:
    muscles = [tube([(side * 24, 58, 30), (side * 40, 52, -160)], [8, rng.uniform(20, 26)]) for side in (-1, 1)]
    back = [ellipsoid((side * 38, 88, 0), (28, 16, 400)) for side in (-1, 1)]
    return [Layer(shape, Tissue.MUSCLE, over=(Tissue.FAT,)) for shape in (*muscles, *back)]


def _bowel(rng: Rng, cavity: Shape, place: Placer) -> list[Layer]:
    layers = []
    for _ in range(int(rng.integers(14, 22))):
        middle = place(rng.uniform(-95, 95), rng.uniform(-75, 10), rng.uniform(-110, -5))
        radii = rng.uniform(10, 22, 3)
        loop = ellipsoid(middle, radii, rotation(rng.uniform(0, 180, 3))) & cavity.grown(-3)
        inside = Tissue.GAS if rng.random() < 0.25 else Tissue.BOWEL_CONTENT
        layers += [Layer(loop, Tissue.BOWEL_WALL), Layer(loop.grown(-3.5), inside)]
    return layers


def _stomach(rng: Rng, cavity: Shape, place: Placer) -> list[Layer]:
    outer = ellipsoid(place(58, -30, 48), rng.uniform((30, 30, 34), (42, 40, 44)), rotation((0, 25, 0)))
    outer = outer.blended(ellipsoid(place(22, -52, 14), (30, 20, 18)), 20) & cavity.grown(-2)
    bubble = outer.grown(-4) & half_space(place(55, rng.uniform(-58, -40), 40), (0, 1, 0))
    return [Layer(outer, Tissue.BOWEL_WALL), Layer(outer.grown(-4), Tissue.STOMACH), Layer(bubble, Tissue.GAS)]


def _liver_vessels(rng: Rng, place: Placer) -> list[Shape]:
    trunk_start = place(-28, 5, 20)
    return [
        tube([trunk_start, place(rng.uniform(-120, -20), rng.uniform(-50, 40), rng.uniform(0, 75))], [6, 2])
        for _ in range(int(rng.integers(4, 7)))
    ]


def _kidney(rng: Rng, place: Placer, side: int, vary: _Variation) -> tuple[Shape, Shape]:
    """The kidney of one side (-1 right, 1 left), and its sinus."""
    x, y, z = place(side * 64, 44, -24 if side < 0 else -16)
    axes = rotation((rng.normal(0, 6), side * rng.uniform(5, 15), side * rng.uniform(20, 40)))
    radii = vary.radii(31, 25, 54, 0.1)
    body = ellipsoid((x, y, z), radii, axes)
    hilum = ellipsoid((x - side * 0.8 * radii[0], y - 3, z), (0.5 * radii[0], 0.35 * radii[1], 0.35 * radii[2]), axes)
    return body, hilum
