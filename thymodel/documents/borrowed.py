"""A prior that is the posterior of another record: the numbers that carry it, as a fit uses and keeps them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thymodel.documents.toml import read_text
from thymodel.errors import Fault, InputError

_KEYS = {"parameters", "mean", "covariance", "own_weight", "source"}


@dataclass(frozen=True)
class Borrowed:
    """Jointly normal with `mean` and `covariance`, in the coordinates in which each parameter's own prior is standard
    normal; mixed with those own priors, which keep the probability `own_weight`.

    `source` says which record it is from and how near the normal is to its draws.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    own_weight: float
    source: Mapping[str, Any]


def borrowed_text(borrowed: Borrowed) -> str:
    """As it is kept beside a record: JSON."""
    content = {"source": dict(borrowed.source), "own_weight": borrowed.own_weight, "parameters": list(borrowed.names),
               "mean": list(borrowed.mean), "covariance": [list(row) for row in borrowed.covariance]}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def load_borrowed(path: Path) -> Borrowed:
    """The inverse of `borrowed_text`.

    Raises:
        InputError: not such a file, or numbers that are no normal distribution.
    """
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, dict) or set(content) != _KEYS:
            raise ValueError(f"its keys must be {', '.join(sorted(_KEYS))}")
        names = tuple(str(name) for name in content["parameters"])
        mean, covariance = np.array(content["mean"], float), np.array(content["covariance"], float)
        if mean.shape != (len(names),) or covariance.shape != (len(names),) * 2:
            raise ValueError("mean and covariance are not of the size of the parameters")
        np.linalg.cholesky(covariance)
        weight = float(content["own_weight"])
        if not 0 <= weight < 1 or not all(math.isfinite(x) for x in mean):
            raise ValueError("a weight outside 0 to 1, or a mean that is not finite")
        if not isinstance(content["source"], dict):
            raise ValueError("its source is not a table")
    except (ValueError, TypeError, OverflowError, RecursionError, np.linalg.LinAlgError) as error:
        raise InputError([Fault(str(path), f"not a prior taken from a record: {error}")]) from None
    return Borrowed(names, tuple(mean.tolist()), tuple(tuple(row) for row in covariance.tolist()), weight,
                    dict(content["source"]))
