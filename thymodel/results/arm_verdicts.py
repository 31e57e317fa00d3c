"""How far the arms of a trial go beyond what its record has seen: the verdict of a scenario of the same arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from thymodel.documents.spec import Arm, Endpoint, ScenarioSpec
from thymodel.inference.sampling import thin
from thymodel.results import extrapolation
from thymodel.results.extrapolation import Verdicts
from thymodel.results.prediction import virtual_subjects
from thymodel.results.record import FitRecord
from thymodel.results.scenarios import covariates_of, simulated

_SUBJECTS, _DRAWS, _SEED = 64, 200, 1  # of the latent courses that tell which parameters move a prediction


@dataclass(frozen=True)
class ArmVerdicts:
    """`implied_export` as in a scenario; empty where nothing was simulated."""

    verdicts: Verdicts = extrapolation.NONE
    implied_export: Mapping[str, Any] | None = None

    @property
    def in_json(self) -> list[dict[str, Any]]:
        return [{"arm": name} | extrapolation.columns(verdict) for name, verdict in self.verdicts.arms.items()]


def judge_arms(record: FitRecord, arms: Sequence[Arm], endpoints: Mapping[str, Endpoint]) -> ArmVerdicts:
    """Verdicts on arms, of the latent course of some endpoints; without any, of doses, days and covariates alone.

    Raises:
        SolveError: a course could not be computed.
        RecordError: a file of the record cannot be read.
    """
    fit = record.spec
    people = virtual_subjects(fit, covariates_of(record), _SUBJECTS, _SEED)
    if not endpoints:
        z = thin(record.z, _DRAWS)
        return ArmVerdicts(extrapolation.judge(record, fit, arms, people.covariates, z, {}))
    latent = {name: replace(endpoint, visits=()) for name, endpoint in endpoints.items()}
    asked = ScenarioSpec("", "", tuple(arms), _SUBJECTS, _DRAWS, _SEED, None, latent)
    found = simulated(record, fit, asked, people)
    return ArmVerdicts(found.verdicts, found.implied_export)
