"""Probability of reconstitution against dose: ED50, ED90, and the dose that reaches a target.

Draw by draw, the curve is straight between the simulated doses. Its effect is the rise from the lowest simulated dose
to the highest probability at any of them: ED50 and ED90 are the lowest doses at which half and nine tenths of that rise
are there. They are of the simulated range, and no parameter of a curve beyond it.
"""

import numpy as np
from jaxtyping import Float

from thymodel.documents.dose_range import DoseRange
from thymodel.results.endpoints import Quantity

DEFINITION = "of the rise from the lowest dose to the highest probability in the simulated range"


def dose_reaching(doses: Float[np.ndarray, " dose"], probability: Float[np.ndarray, "draw dose"],
                  level: Float[np.ndarray, " draw"]) -> Float[np.ndarray, " draw"]:
    """Lowest dose at which the curve is at the level or above; infinite where no simulated dose is.

    Args:
        doses: ascending.
    """
    there = probability >= level[:, None]
    k = np.argmax(there, axis=1)
    rows, before = np.arange(len(k)), np.maximum(k - 1, 0)
    low, high = probability[rows, before], probability[rows, k]
    rise = np.where(high > low, high - low, 1.0)
    dose = doses[before] + np.where(k > 0, (level - low) / rise, 0.0) * (doses[k] - doses[before])
    return np.where(there.any(axis=1), dose, np.inf)


def dose_quantities(span: DoseRange, name: str, probability: Float[np.ndarray, "draw dose"]) -> list[Quantity]:
    """ED50, ED90 and the dose that reaches the target, of the probability of that name at each dose, ascending."""
    doses = np.array(span.amounts)
    base, top = probability[:, 0], probability.max(axis=1)
    effect, unit = top - base, f"dose, {span.unit}"
    rising = (probability[:, -1] >= top) & (effect > 0)
    flat, note = effect <= 0, [f"{DEFINITION}, {doses[0]:g} to {doses[-1]:g} {span.unit}"]
    if flat.any():
        note.append(f"no rise in {100 * flat.mean():.0f}% of the draws, where it is not defined")
    if rising.any():
        note.append(f"highest at the last dose in {100 * rising.mean():.0f}%, so that more might do more")
    found = [Quantity(f"ED{100 * part:.0f} of {name}",
                      np.where(flat, np.nan, dose_reaching(doses, probability, base + part * effect)), unit,
                      "; ".join(note)) for part in (0.5, 0.9)]
    if span.target is None:
        return found
    reached = dose_reaching(doses, probability, np.full(len(base), span.target))
    return [*found, Quantity(f"dose at which {name} reaches {100 * span.target:g}%", reached, unit,
                             _target_note(span, span.target, reached))]


def _target_note(span: DoseRange, target: float, reached: Float[np.ndarray, " draw"]) -> str:
    never, all_range = np.isinf(reached), f"from {span.amounts[0]:g} to {span.amounts[-1]:g} {span.unit}"
    if never.all():
        return f"no dose {all_range} reaches {100 * target:g}% in any draw"
    already = reached <= span.amounts[0]
    notes = [f"no dose {all_range} reaches it in {100 * never.mean():.0f}% of the draws"]
    if already.any():
        notes.append(f"the lowest dose already does in {100 * already.mean():.0f}%")
    return "; ".join(notes)
