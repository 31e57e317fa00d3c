"""The fit journey on one screen: documents -> posterior -> draws -> verdict -> record."""

import io
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import xarray as xr
from jaxtyping import Float

import thymodel
from thymodel.documents.borrowed import borrowed_text
from thymodel.documents.data import StudyData, disposition
from thymodel.documents.spec import FitSpec, SamplerTable, load_fit_spec
from thymodel.documents.toml import digest, read_text
from thymodel.errors import Fault, InputError
from thymodel.inference import approximation, centring, certificate, diagnostics, levels, sampling
from thymodel.inference.approximation import NUTS, Approximation
from thymodel.inference.population import missing_name
from thymodel.inference.posterior import Posterior, constrain, make_posterior, precise
from thymodel.inference.readings import approximate
from thymodel.inference.sampling import Draws, Settings, thin
from thymodel.inference.sampling import Progress as SamplingProgress
from thymodel.results import borrowing, changes, comparison, exports, lineage, planning, resolved, run_log
from thymodel.results import record as records
from thymodel.results.cautions import reviewer_warnings
from thymodel.results.curves import joint_grid, make_curves
from thymodel.results.endpoints import summarise_draws
from thymodel.results.migration import CONVENTIONS
from thymodel.results.prediction import Simulation, baseline_covariates, observed_arms, simulator, virtual_subjects
from thymodel.results.reconstitution import Judging, Outcomes, outcomes
from thymodel.results.record import FitRecord
from thymodel.results.residuals import misfit
from thymodel.results.run_log import Run
from thymodel.results.study import load_study

CHECKPOINT = ".checkpoint"
_PACKAGES = ("thymodel", "numpy", "scipy", "sympy", "jax", "jaxlib", "diffrax", "blackjax", "llvmlite", "arviz", "pint",
             "pandas")
_CERTIFIED = 400  # draws whose log density is computed again with finer steps
ROOM = 256  # rows of the solver's table: most fits need fewer, and then nothing is compiled twice
_ENDPOINT_DRAWS = 1200  # at most; of every chain equally many
_Drawn = TypeVar("_Drawn", Draws, Approximation)
_ENDPOINT_SUBJECTS = 64  # virtual, the same under every draw


@dataclass(frozen=True)
class Progress:
    """What a fit tells while it runs: `stage(text)`, and `sampling(chain, done, total, divergences)`."""

    stage: Callable[[str], None] = lambda text: None
    sampling: SamplingProgress = lambda chain, done, total, divergences: None


def fit(spec_path: str | Path, data_path: str | Path | None = None, out: str | Path | None = None,
        resume: bool = False, overrides: Mapping[str, int | None] | None = None,
        progress: Progress = Progress(),  # noqa: B008  (a frozen value)
        method: str = NUTS) -> FitRecord:
    """Fits what a spec asks for and writes the record.

    Args:
        spec_path: `spec.toml`, or the directory that holds it.
        data_path: the study data, when they are not beside the spec.
        out: directory of the record; the spec's own by default.
        resume: go on from the checkpoint that an interrupted run left in `out`.
        overrides: chains, warmup, draws or seed in place of the spec's; named in the record.
        method: nuts, or another reading of the same log density (map, laplace, pathfinder, smc), whose record says so
            and may not be quoted.

    Raises:
        InputError: every fault of spec, model or data; a directory that holds a record; options that mean nothing to
            the method.
    """
    clock = _Clock()
    approximation.refuse(method, resume, overrides or {})
    spec = with_overrides(records.with_prior_from(load_fit_spec(spec_path)), overrides or {})
    folder = _open_folder(spec, out, resume)
    parent = lineage.load_parent(spec)
    run = run_log.begin(folder, spec, {**(overrides or {}), "method": method, "resume": resume,
                                       "data": Path(data_path).name if data_path is not None else None})
    return run_log.logged(run, lambda: _fit(spec, data_path, folder, overrides or {}, progress, method, clock, run,
                                            parent))


def _fit(spec: FitSpec, data_path: str | Path | None, folder: Path, overrides: Mapping[str, int | None],
         progress: Progress, method: str, clock: "_Clock", run: Run, parent: FitRecord | None) -> FitRecord:
    """From the data to the record; the run log knows of it whatever happens."""
    plan = planning.fix_plan(spec, folder, folder / CHECKPOINT)  # hashed before anything is sampled
    data, data_file = load_study(spec, data_path)
    progress.stage("preparing the posterior")
    posterior = make_posterior(spec, data, least_rows=ROOM)
    clock.lap("prepare")
    draws, posterior = read_posterior(posterior, data, folder / CHECKPOINT, progress, method)
    clock.lap("sample")
    progress.stage("reconstitution times")
    simulation = simulate_arms(posterior, data, draws)
    derived, found = derive(posterior, data, draws, simulation)
    clock.lap("endpoints")
    progress.stage("curves")
    curves = make_curves(spec, posterior.layout, draws.z, data, found.times, simulation)
    clock.lap("curves")
    files = _files(posterior, data, draws, derived, curves) | planning.plan_files(plan)
    record = _write(posterior, data, data_file, draws, found, files, folder, clock, overrides, run, parent, plan)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    return record


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.start = round(now - self.start, 2), now


def with_overrides(spec: FitSpec, overrides: Mapping[str, int | None]) -> FitSpec:
    asked = {key: value for key, value in overrides.items() if value is not None}
    try:
        sampler = SamplerTable.model_validate({**spec.sampler.model_dump(), **asked})
    except pydantic.ValidationError as error:
        raise InputError([Fault(f"--{item['loc'][0]} {item['input']}", item["msg"])
                          for item in error.errors()]) from None
    return replace(spec, sampler=sampler)


def _open_folder(spec: FitSpec, out: str | Path | None, resume: bool) -> Path:
    folder = Path(out) if out is not None else spec.path.parent
    records.refuse_existing(folder)
    _refuse_unwritable(folder)
    for name, text in (("spec.toml", spec.text), (spec.model_path.name, spec.model.text)):
        if (folder / name).exists() and read_text(folder / name) != text:
            raise InputError([Fault(str(folder / name), f"another {name} is there already", "use another --out")])
    if any((folder / CHECKPOINT).rglob("state.npz")) and not resume:
        raise InputError([Fault(str(folder / CHECKPOINT), "an interrupted fit is here",
                                "continue it with --resume, or delete this directory")])
    if not resume:
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    return folder


def _refuse_unwritable(folder: Path) -> None:
    """Said before the sampling, not after it."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError([Fault(str(there), "not a directory", "use another --out")])
    if not os.access(there, os.W_OK):
        raise InputError([Fault(str(there), "may not be written to", "use another --out")])


def read_posterior(posterior: Posterior, data: StudyData, checkpoint: Path, progress: Progress,
                   method: str) -> tuple[Draws | Approximation, Posterior]:
    """What the method makes of the posterior, and the posterior that it is of."""
    if method == NUTS:
        return sample_posterior(posterior, data, checkpoint, progress)
    progress.stage(method)
    return _with_levels(posterior, approximate(posterior, method, progress.sampling)), posterior


def sample_posterior(posterior: Posterior, data: StudyData, checkpoint: Path | None,
                     progress: Progress) -> tuple[Draws, Posterior]:
    """Draws, and the posterior that they are of: with the solver's steps laid for where the pilot found the mass."""
    refined: list[Posterior] = []
    grid = posterior.solver.tables.grid
    rows = 1 if grid is None else grid.rows.shape[1]  # the same shape: the programs of the pilot serve for the draws

    def lacks(z: np.ndarray) -> str:
        if z.shape[0] < 2 or z.shape[0] * z.shape[1] < 2 * max(spec.gates.ess_bulk, spec.gates.ess_tail):
            return ""  # so few cannot have been meant to meet the gates: a quick look
        natural = _natural(posterior, z)
        rows = {name: value for name, value in natural.items() if not name.startswith(("re_", "missing_"))}
        return diagnostics.lacking(diagnostics.summary_table(rows), spec.gates)

    def refine(likely: np.ndarray):
        refined.append(make_posterior(spec, data, likely, least_rows=rows, like=posterior))
        return (refined[-1].data,)

    spec, lay = posterior.spec, posterior.layout
    asked = spec.sampler
    settings = Settings(asked.chains, asked.warmup, asked.draws, asked.seed, asked.target_accept)
    progress.stage("pilot, compiling")
    draws = sampling.sample(posterior.density, lay.size, centring.searched(lay), settings, checkpoint,
                            _identity(spec, data), progress.sampling, centring.coordinates(lay), (posterior.data,),
                            refine, lacks=lacks)
    return _with_levels((refined or [posterior])[-1], draws), (refined or [posterior])[-1]


def _with_levels(posterior: Posterior, draws: _Drawn) -> _Drawn:
    """The draws with a value for each missing covariate that has but a few, from its distribution given the rest."""
    if not posterior.supposed.several or posterior.probabilities is None:
        return draws
    flat = draws.z.reshape(-1, draws.z.shape[-1])
    z = levels.recode(posterior.spec, posterior.layout, posterior.supposed, posterior.probabilities, flat)
    moved = 0.5 * np.sum(flat**2 - z**2, axis=1)  # of standard normals, of which the likelihood does not depend
    return draws._replace(z=z.reshape(draws.z.shape),
                          log_density=draws.log_density + moved.reshape(draws.z.shape[:2]))


def _identity(spec: FitSpec, data: StudyData) -> str:
    """What the draws depend on, as a digest: a checkpoint of anything else is refused."""
    prior = borrowed_text(spec.borrowed) if spec.borrowed is not None else ""
    parts = [spec.digest, spec.model.digest, data.digest, prior, spec.sampler.model_dump_json(), *_versions().values()]
    return digest("\n".join(parts))


def simulate_arms(posterior: Posterior, data: StudyData, draws: Draws | Approximation) -> Simulation:
    """Courses of virtual subjects in the study's arms."""
    spec, grid = posterior.spec, joint_grid(posterior.spec, data)
    people = virtual_subjects(spec, baseline_covariates(spec, data), _ENDPOINT_SUBJECTS, spec.sampler.seed)
    z = draws.z.reshape(-1, draws.z.shape[-1])
    return simulator(spec, posterior.layout, z, observed_arms(spec, data), people, grid)


def derive(posterior: Posterior, data: StudyData, draws: Draws | Approximation,
           simulation: Simulation) -> tuple[xr.Dataset, Outcomes]:
    """Summaries of endpoints and implied exports, draw by draw, for every arm: dims (chain, draw, arm); and the
    outcomes themselves (arm, draw, subject)."""
    spec = posterior.spec
    chains, count = draws.z.shape[:2]
    kept = np.unique(np.linspace(0, count - 1, min(count, _ENDPOINT_DRAWS // chains)).astype(int))
    z = draws.z[:, kept].reshape(chains * len(kept), -1)
    arms = observed_arms(spec, data)
    latent = {name: replace(endpoint, visits=()) for name, endpoint in spec.endpoints.items()}
    found = outcomes(Judging(simulation, z, latent))
    variables, times = exports.summaries(found.exports), found.times
    for name, endpoint in spec.endpoints.items():
        summaries = [summarise_draws(endpoint, arm.name, times[name][k]) for k, arm in enumerate(arms)]
        for quantity in ("never",) if endpoint.landmark else ("median", "never", "restricted_mean"):
            variables[f"{name}.{quantity}"] = np.stack([getattr(s, quantity) for s in summaries], axis=1)
        for day in endpoint.by:
            variables[f"{name}.by_{day:g}"] = np.stack([s.probability_by[day] for s in summaries], axis=1)
        for k, label in enumerate(() if endpoint.landmark else ("q05", "q50", "q95")):
            variables[f"{name}.spread_{label}"] = np.stack([s.spread[:, k] for s in summaries], axis=1)
    shaped = {key: (("chain", "draw", "arm"), value.reshape(chains, len(kept), len(arms)))
              for key, value in variables.items()}
    coords = {"chain": np.arange(chains), "draw": kept, "arm": [arm.name for arm in arms]}
    return xr.Dataset(shaped, coords=coords), found


def _files(posterior: Posterior, data: StudyData, draws: Draws | Approximation, derived: xr.Dataset,
           curves: Mapping[str | None, xr.Dataset]) -> dict[str, bytes]:
    spec = posterior.spec
    groups = posterior_groups(posterior, draws)
    covariates = {name: ("patient", values) for name, values in baseline_covariates(spec, data).items()}
    groups["constant_data"] = xr.Dataset(covariates)
    files = {records.POSTERIOR: records.netcdf_bytes(groups), records.CURVES: records.netcdf_bytes(curves),
             "spec.toml": spec.text.encode(),
             f"{spec.model_path.stem}.toml": spec.model.text.encode()}
    rows = records.named_draws(groups["posterior"])
    if derived.data_vars:
        files[records.DERIVED] = records.netcdf_bytes({None: derived})
        rows |= records.named_draws(derived)
    if spec.borrowed is not None:
        files[borrowing.FILE] = borrowed_text(spec.borrowed).encode()
    files |= {table.path.name: table.path.read_bytes() for table in spec.published}
    table = diagnostics.summary_table(rows)
    table.index.name = "name"
    files[records.TABLE] = table.to_csv(float_format=lambda value: repr(float(value))).encode()
    return files


def posterior_groups(posterior: Posterior, draws: Draws | Approximation) -> dict[str | None, xr.Dataset]:
    """Groups of the ArviZ schema."""
    chains, count, _ = draws.z.shape
    natural = _natural(posterior, draws.z)
    coords = {"chain": np.arange(chains), "draw": np.arange(count)}
    lacking = {missing_name(name): who for name, who in posterior.missing.items() if who}
    own = {name: (f"of_{name}" if name in lacking else "subject",) if value.ndim == 3 else ()
           for name, value in natural.items()}
    variables = {name: (("chain", "draw") + own[name], value) for name, value in natural.items()}
    coords |= {f"of_{name}": np.array([posterior.layout.subjects[k] for k in who], dtype=object)
               for name, who in lacking.items()}
    if any(name.startswith("re_") for name in variables):
        coords["subject"] = np.array(posterior.layout.subjects, dtype=object)
    stats = {"lp": draws.log_density}
    if isinstance(draws, Draws):
        stats |= {"energy": draws.energy, "diverging": draws.diverging, "n_steps": draws.leapfrogs,
                  "acceptance_rate": draws.accept}
    two = ("chain", "draw")
    attributes = {"created_by": f"thymodel {thymodel.__version__}", "simulated": int(posterior.spec.simulated)}
    small = {key: coords[key] for key in two}
    return {
        "posterior": xr.Dataset(variables, coords=coords, attrs=attributes),
        "sample_stats": xr.Dataset({key: (two, value) for key, value in stats.items()}, coords=small),
        "unconstrained_posterior": xr.Dataset({"z": ((*two, "coordinate"), draws.z)}, coords=small)}


def _natural(posterior: Posterior,
             z: Float[np.ndarray, "chain draw coordinate"]) -> dict[str, Float[np.ndarray, "chain draw *subject"]]:
    """Draws in natural values, by name."""
    chains, count, size = z.shape
    found = jax.jit(jax.vmap(lambda z: constrain(posterior, z)))(jnp.asarray(z.reshape(-1, size)))
    return {name: np.asarray(value).reshape(chains, count, *value.shape[1:]) for name, value in found.items()}


def _write(posterior: Posterior, data: StudyData, data_file: Path, draws: Draws | Approximation, outcomes: Outcomes,
           files: dict[str, bytes], folder: Path, clock: _Clock, overrides: Mapping[str, Any], run: Run,
           parent: FitRecord | None, plan: planning.FixedPlan | None) -> FitRecord:
    spec = posterior.spec
    table = records.read_table(io.BytesIO(files[records.TABLE]))
    sampler = _sampler_content(spec, draws, overrides)
    certified = _certificate(posterior, draws)
    verdict = records.verdict_of(spec, table, sampler, certified)
    clock.lap("summaries")
    beside = spec.has_data and data_file.resolve().parent == spec.path.parent.resolve()
    content = {
        "name": spec.name, "title": spec.title, "purpose": spec.purpose, "simulated": spec.simulated,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": {"passed": verdict.passed, "sentences": list(verdict.sentences)},
        "model": {"name": spec.model.name, "title": spec.model.title, "sha256": spec.model.digest},
        "spec": {"sha256": spec.digest}, "plan": planning.plan_content(plan, folder),
        "data": _data_content(data, data_file, folder if beside else None),
        "published": comparison.compare(posterior, draws.z),
        "parameters": [name for name in table.index if "[" not in name],
        "units": resolved.unit_of_quantities(spec), "priors": resolved.priors_in_force(spec),
        "prior_from": borrowing.as_content(spec, posterior.layout, data, draws.z), "fixed": dict(spec.fixed),
        "endpoints": {name: resolved.endpoint_content(e) for name, e in spec.endpoints.items()},
        "implied_export": exports.assess(spec, outcomes.exports, [arm.name for arm in observed_arms(spec, data)],
                                         outcomes.window),
        "summary": {name: {key: records.finite_or_none(value) for key, value in row.items()}
                    for name, row in table.iterrows() if not str(name).startswith("re_")},
        **({"missing_covariates": missing} if (missing := _missing_covariates(posterior, table)) else {}),
        "random_effects": _worst_random_effect(table), "residuals": misfit(posterior, draws),
        "solver": {"kind": posterior.solver.kind, "why": posterior.solver.why, "method": posterior.solver.method,
                   "rtol": spec.solver.rtol, "atol": spec.solver.atol,
                   "scale": [float(s) for s in posterior.solver.tables.scale]},
        "sampler": sampler, "certificate": certified, "fixed_points": _fixed_points(posterior, data, draws),
        "environment": {"python": platform.python_version(), "platform": platform.platform(), "dtype": "float64",
                        "packages": _versions()},
        "seconds": clock.laps,
        "run": run.content, "parent": lineage.as_content(parent, spec, data, run.options), "conventions": CONVENTIONS,
        "fingerprints": {"data": changes.data_fingerprints(data_file.read_bytes()) if beside else None},
    }
    content["warnings"] = [*reviewer_warnings(content), *run.warnings]
    return records.write_record(folder, files, content)


def _sampler_content(spec: FitSpec, draws: Draws | Approximation, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """How the draws were made, as the record says it."""
    asked = {**spec.sampler.model_dump(), "overrides": {key: value for key, value in overrides.items()
                                                        if value is not None}}
    if isinstance(draws, Approximation):
        return {**asked, "method": draws.method, "name": approximation.NAMES[draws.method],
                "sentences": list(draws.sentences), "approximation": draws.told}
    return {**asked, "method": NUTS, "name": "NUTS (BlackJAX), steps halved within the orbit",
            "divergences": int(draws.diverging.sum()),
            "way": draws.way, "modes": draws.modes, "longer": draws.longer,
            "warmup_divergences": draws.warmup_divergences,
            "failed_solves": draws.failed, "steps": int(draws.leapfrogs.sum()),
            "warmup_failed_solves": draws.warmup_failed,
            "halted": int(draws.halted.sum()), "leapfrogs": draws.gradients,
            "leapfrogs_per_draw": float(draws.leapfrogs.mean()),
            "step_size": [float(step) for step in draws.step_size],
            "energy_fraction": [float(e) for e in diagnostics.energy_fraction(draws.energy)]}


def _certificate(posterior: Posterior, draws: Draws | Approximation) -> dict[str, Any]:
    """Of some draws; a single point has no weights, and none."""
    if draws.log_density.size == 1:
        return {}
    used = thin(draws.log_density[:, :, None], _CERTIFIED)[:, 0]
    return certificate.as_record(certificate.certify(posterior, thin(draws.z, _CERTIFIED), used,
                                                     posterior.spec.gates.pareto_k))


def _data_content(data: StudyData, path: Path, folder: Path | None) -> dict[str, Any]:
    """What the record says of the data; their place only if they lie beside the spec, as a relative path."""
    relative = os.path.relpath(path.resolve(), folder.resolve()) if folder is not None else None
    study = {"study": [s.study for s in data.subjects]} if data.studies else {}
    return {"name": data.name, "sha256": data.digest, "path": relative and Path(relative).as_posix(),
            "rows": data.rows, "subjects": [s.id for s in data.subjects], **study,
            "observations": sum(len(s.observations) for s in data.subjects), "notes": list(data.notes),
            "exclusions": [{"row": e.row, "id": e.id, "time": e.time, "reason": e.reason} for e in data.exclusions],
            "disposition": [{"arm": d.arm, "subjects": d.subjects, "doses": d.doses,
                             "observations": dict(d.observations), "censored": dict(d.censored),
                             "excluded": d.excluded} for d in disposition(data)]}


def _missing_covariates(posterior: Posterior, table) -> list[dict[str, Any]]:
    """Posterior of every covariate that was not known of a subject."""
    rows, units = [], resolved.unit_of_quantities(posterior.spec)
    for name, who in posterior.missing.items():
        for subject in (posterior.layout.subjects[k] for k in who):
            found = table.loc[f"{missing_name(name)}[{subject}]"]
            rows.append({"covariate": name, "kind": posterior.spec.missing_covariates[name].kind, "subject": subject,
                         "unit": units.get(missing_name(name), "1"),
                         "mean": float(found["mean"]), "sd": float(found["sd"])})
    return rows


def _worst_random_effect(table) -> dict[str, Any]:
    rows = table[table.index.str.startswith("re_")]
    if rows.empty:
        return {"count": 0}
    return {"count": len(rows), "worst_rhat": float(rows["rhat"].max(skipna=False)),
            "least_ess_bulk": float(rows["ess_bulk"].min(skipna=False)),
            "least_ess_tail": float(rows["ess_tail"].min(skipna=False))}


def _fixed_points(posterior: Posterior, data: StudyData, draws: Draws | Approximation) -> list[dict[str, Any]]:
    """Three draws with their log density, computed as `verify` will: to a tight tolerance."""
    chains, count = draws.z.shape[:2]
    z = np.stack([draws.z[0, 0], draws.z[chains // 2, count // 2], draws.z[chains - 1, count - 1]])
    density = jax.jit(make_posterior(precise(posterior.spec), data, z, like=posterior).log_density)
    return [{"z": [float(x) for x in point], "log_density": float(density(point))} for point in z]


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


def summary_json(record: FitRecord) -> str:
    """What `thymodel fit --json` prints."""
    keys = ("name", "title", "simulated", "verdict", "summary", "implied_export", "units", "digest")
    return json.dumps({key: record.content[key] for key in keys}, indent=1)
