"""Stored: an edit on the recordings of an earlier edit of the same picture, which a store keeps.

step     0        1        2          3          4        5          6
         packed   half     packed     skipped    half     packed     skipped
reads    S0       S1       S2 + C1               S4       S5 + C4

S is the store's recording at a step, interpolated between the steps that it keeps. C is a correction: by how much this
edit's own recording differed from the store's at the last step that ran half dense. It is held, not extrapolated.

For an edit of the same place: another prompt, another seed. At another place the store has seen what the edit paints
over, and features around it differ, too; such an edit is better made without the store (docs/sessions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sige.errors import ConfigError
from sige.policies.checks import check_bool, check_count, check_steps
from sige.policies.plan import ACTIVE, NEARLY_ALL, NONE, Plan, Step, Terms
from sige.policies.presets import SHORTEST, fill
from sige.policies.schedule import forecast_weights

__all__ = ["DILATION", "Stored", "interpolated"]

CORRECTED = (1 / 30, 4 / 30, 8 / 30, 18 / 30)  # shares of a call; the stored steps next to these are corrected
FILLS = ((0.0, "ps"), (4 / 30, "pss"), (8 / 30, "ssp"))  # what follows a stored or corrected step, from a share on
DILATION = 2  # positions
NODES = 3  # stored steps that an interpolation reads


@dataclass(frozen=True)
class Stored:
    """The policy of an edit in a session.

    >>> Stored((0, 1, 4, 8, 13, 18, 24)).plan(30, active=0.1).codes
    'pHpppsHspsspspHsspp'
    """

    steps: tuple[int, ...]  # that the store keeps
    dense_steps: tuple[int, ...] | None = None  # which run dense; None: the policy's own
    half_steps: tuple[int, ...] | None = None  # which run half dense; None: the policy's own
    skipped_steps: tuple[int, ...] | None = None  # which continue the outputs before them; None: the policy's own
    dilation: int | None = None  # of a region that is made from a mask; None: 2
    exact_statistics: bool = True  # False freezes GroupNorm's statistics, for comparison

    def __post_init__(self) -> None:
        check_bool("exact_statistics", self.exact_statistics)
        for field in ("steps", "dense_steps", "half_steps", "skipped_steps"):
            if isinstance(getattr(self, field), list):
                object.__setattr__(self, field, tuple(getattr(self, field)))
            check_steps(field, getattr(self, field))
        if not self.steps:
            raise ConfigError("steps: got none, expected the steps that the store keeps")
        if self.dilation is not None:
            check_count("dilation", self.dilation, 0)

    @property
    def dilates_by(self) -> int:
        """Positions that a mask grows by: what lies around it was recorded beside another content of the mask."""
        return DILATION if self.dilation is None else self.dilation

    def plan(self, count: int, active: float, first: int = 0, skips: bool = True, halves: bool = True) -> Plan:
        """A step for each of `count`; arguments as in `Temporal.plan`. Without `halves` corrected steps run dense."""
        if active >= NEARLY_ALL:
            return Plan((Step(),) * count)
        dense, half = self._corrected(count)
        skipped = self._skipped(count, (*dense, *half)) if skips else ()
        steps: list[Step] = [Step()] * first
        own: int | None = None  # the last step with a recording of this edit's own
        for step in range(first, count):
            computed = [other for other in range(first, step) if steps[other].positions != NONE]
            if step in dense or step in half:
                is_half = halves and step not in dense
                steps.append(Step(stored=interpolated(step, self.steps), half=True) if is_half else Step())
                own = step
            elif step in skipped and len(computed) > 1:
                known = computed[-2:]
                steps.append(Step(NONE, outputs=tuple(zip(known, forecast_weights(step, known), strict=True))))
            else:
                steps.append(self._packed(step, own))
        return Plan(tuple(steps))

    def _packed(self, step: int, own: int | None) -> Step:
        """A packed step on the store's recording, corrected as at the step `own`."""
        weights = dict(interpolated(step, self.steps))
        if own is None:
            return Step(ACTIVE, stored=tuple(weights.items()))
        for node, weight in interpolated(own, self.steps):
            weights[node] = weights.get(node, 0.0) - weight
        stored = tuple((node, weight) for node, weight in sorted(weights.items()) if abs(weight) > 1e-9)
        return Step(ACTIVE, ((own, 1.0),), stored)

    def _corrected(self, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The steps that run dense, and those that run half."""
        if self.half_steps is not None:
            half = self.half_steps
        elif count >= SHORTEST:  # at stored steps a correction is one recording minus another
            half = tuple(min(self.steps, key=lambda step: abs(step - share * count)) for share in CORRECTED)
        else:  # too short to skip a step: there even the first decides much
            half = (0, 1, count // 2) if count > 4 else (0, 1)
        dense = tuple(step for step in self.dense_steps or () if step < count)
        return dense, tuple(step for step in half if step < count and step not in dense)

    def _skipped(self, count: int, corrected: tuple[int, ...]) -> tuple[int, ...]:
        """The steps that are skipped; a stored step never is, so that the store can follow this edit."""
        anchors = sorted({0, *corrected, *(step for step in self.steps if step < count)})
        if self.skipped_steps is not None:
            return tuple(step for step in self.skipped_steps if step < count and step not in anchors)
        return fill(anchors, count, FILLS) if count >= SHORTEST else ()


def interpolated(step: int, stored: Sequence[int]) -> Terms:
    """The stored steps that stand for a step, each with its weight: a parabola through the three nearest.

    The first step is read for itself alone: what a model does on noise says little about what it does next.

    >>> interpolated(5, (0, 1, 5, 10, 16)), [node for node, _ in interpolated(6, (0, 1, 5, 10, 16))]
    (((5, 1.0),), [1, 5, 10])
    >>> [node for node, _ in interpolated(2, (0, 1, 5, 10))], [node for node, _ in interpolated(29, (0, 1, 5, 10))]
    ([1, 5, 10], [1, 5, 10])
    """
    if step in stored:
        return ((step, 1.0),)
    known = [node for node in stored if node >= 1] if step >= 1 else list(stored)
    known = known or list(stored)
    nodes = sorted(sorted(known, key=lambda node: (abs(node - step), node))[:NODES])
    below, above = [node for node in known if node < step], [node for node in known if node > step]
    if below and above and not nodes[0] < step < nodes[-1]:
        others = [node for node in nodes if node not in (below[-1], above[0])]
        nodes = sorted([below[-1], above[0], *others[: NODES - 2]])
    return tuple(zip(nodes, forecast_weights(step, nodes), strict=True))
