"""What published guidelines ask of an analysis, item by item, and which artefact answers each item.

The items are in this package's words and stand in the order of their sources, which alone are authoritative:

* BARG: Kruschke 2021, Nat Hum Behav 5:1282, Table 1 (preamble and steps 1 to 6).
* ROBUST: Sung et al. 2005, J Clin Epidemiol 58:261, seven items.
* Credibility evidence: FDA, Assessing the Credibility of Computational Modeling and Simulation in Medical Device
  Submissions, November 2023, eight categories; its framework is that of ASME V&V 40-2018.
* M15: ICH M15, General principles for model-informed drug development, as this project reads it.
"""

from dataclasses import dataclass
from typing import Literal

from thymodel.documents.analysis_plan import CategoryKey

# what must be there for an item to be answered; `assessment` looks
Fact = Literal["record", "plan", "nuts", "sources", "checks", "sensitivity", "certificate", "export", "probability",
               "registered", "data", "person", "unused", "none"]


@dataclass(frozen=True)
class Item:
    """`needs`: facts that must all hold; `artefact`: the file or command that answers it where they do (MODEL is the
    record's model), and `otherwise` what to do, or why it is not done."""

    group: str
    asks: str
    needs: tuple[Fact, ...]
    artefact: str
    otherwise: str = ""


_CHECK = "run thymodel check-fit"
_POWER = "run thymodel priors, or plan a criterion of kind prior_sensitivity"

BARG = (
    Item("Preamble", "why Bayesian", ("person",), "a person explains, where readers need it"),
    Item("Preamble", "goals of the analysis", ("plan",), "plan.toml: question, context_of_use", "write plan.toml"),
    Item("1 Model", "data variables", ("record",), "record.json: data; spec.toml: data, endpoints"),
    Item("1 Model", "likelihood and parameters, levels of the hierarchy", ("record",),
         "spec.toml: likelihood, between_subject; MODEL.toml"),
    Item("1 Model", "prior distributions, each justified", ("sources",), "record.json: priors (source, reason)",
         "a prior has neither source nor reason"),
    Item("1 Model", "formal specification", ("record",), "spec.toml and MODEL.toml, both in the record"),
    Item("1 Model", "prior predictive check", ("checks",), "checks.json: vpc, prior band", _CHECK),
    Item("2 Computation", "software and versions", ("record",), "record.json: environment"),
    Item("2 Computation", "convergence of chains, every parameter and derived value", ("nuts",),
         "table.csv: rhat; record.json: verdict", "not by MCMC: see the method's own sentences in the verdict"),
    Item("2 Computation", "effective sample size, every parameter and derived value", ("nuts",),
         "table.csv: ess_bulk, ess_tail", "not by MCMC"),
    Item("2 Computation", "other methods than MCMC: their error", ("record",), "record.json: sampler.method, verdict"),
    Item("3 Posterior", "posterior predictive check", ("checks",), "checks.json: questions, vpc, endpoints", _CHECK),
    Item("3 Posterior", "posterior of the variables: centre and interval, kind named", ("record",),
         "table.csv: median, q05, q95 (equal-tailed 90%)"),
    Item("3 Posterior", "Bayes factors and model probabilities, if used", ("unused",),
         "models are compared by leave-one-out scores (thymodel compare)"),
    Item("4 Decisions", "criteria of a decision, and why", ("plan",), "plan.toml: criteria", "write plan.toml"),
    Item("4 Decisions", "loss function, or limits of practical equivalence, if used", ("person",),
         "a person states them where a decision is made"),
    Item("4 Decisions", "estimates beside any decision", ("record",), "table.csv; thymodel quote"),
    Item("5 Sensitivity", "to the priors, broad or informed", ("sensitivity",), "thymodel priors (power-scaling)",
         _POWER),
    Item("5 Sensitivity", "of decisions to the priors", ("sensitivity", "probability"),
         "thymodel priors (power-scaling of endpoints; --tip)", _POWER),
    Item("6 Reproducible", "software and how to install it", ("record",),
         "record.json: environment.packages; constraints.txt of the version"),
    Item("6 Reproducible", "scripts and commands", ("record",), "spec.toml: thymodel fit spec.toml"),
    Item("6 Reproducible", "data", ("data",), "the data file beside the record, its sha256 in record.json",
         "the data are not beside the record; record.json has their sha256"),
    Item("6 Reproducible", "seeds, and the draws themselves", ("record",), "record.json: sampler.seed; posterior.nc"),
)

ROBUST = (
    Item("Prior", "specified", ("record",), "record.json: priors; spec.toml"),
    Item("Prior", "justified", ("sources",), "record.json: priors (source, reason)", "a prior has neither source nor "
         "reason"),
    Item("Prior", "sensitivity analysis", ("sensitivity",), "thymodel priors (power-scaling)", _POWER),
    Item("Analysis", "statistical model", ("record",), "spec.toml and MODEL.toml, both in the record"),
    Item("Analysis", "analytic technique", ("record",), "record.json: sampler, solver"),
    Item("Results", "central tendency", ("record",), "table.csv: mean, median"),
    Item("Results", "SD or credible interval", ("record",), "table.csv: sd, q05, q95"),
)

M15 = (
    Item("Verification", "of code, equations and calculations", ("certificate",),
         "record.json: certificate, solver; thymodel describe; qualification/", "no numerical certificate"),
    Item("System", "reliable, reproducible, traceable, tested", ("record",),
         "record.json: environment, files, digest; thymodel verify"),
    Item("Data", "relevance, exclusions with rationale", ("record",),
         "record.json: data.disposition, data.exclusions; a person argues relevance"),
    Item("Structure", "and parameters consistent with biology", ("export",),
         "record.json: priors, implied_export; MODEL.toml, its sources", "no implied export: the model has no healthy "
         "reference"),
    Item("Assumptions", "justified, alternatives considered", ("registered",),
         "plan.toml: assumptions; table of assumed numbers", "write [assumptions] in plan.toml"),
    Item("Robustness", "to priors, cohorts and structure", ("sensitivity",),
         "thymodel priors; thymodel compare --by cohort", _POWER),
    Item("Performance", "by metrics tied to the question", ("checks",), "checks.json: endpoints, questions", _CHECK),
    Item("External validation", "on data that were not fitted", ("none",), "", "not done: no held-out cohort in this "
         "record"),
    Item("Simulations", "with parameter and assumption uncertainty", ("probability",),
         "derived.nc; thymodel scenario with its extrapolation verdict", "the fit has no endpoint"),
    Item("Plan", "defined beforehand, deviations justified", ("plan",),
         "plan.toml, hashed before the sampling; table of deviations", "write plan.toml before the fit"),
)


@dataclass(frozen=True)
class Category:
    """A category of credibility evidence; `key` is that of [credibility] in a plan. `gap` is what the package never
    brings by itself."""

    key: CategoryKey
    name: str
    needs: tuple[Fact, ...]
    artefact: str
    otherwise: str
    gap: str


CREDIBILITY = (
    Category("code_verification", "1 Code verification results", ("certificate",),
             "qualification/ (laws, recovery, fuzzing); record.json: solver, certificate", "no certificate",
             "the tests are of the package, not of this installation"),
    Category("model_calibration", "2 Model calibration evidence", ("nuts",), "table.csv, posterior.nc; checks.json",
             "not by MCMC: not for quotation", "agreement with the data that were fitted is no validation"),
    Category("bench_test_validation", "3 Bench test validation results", ("none",), "", "none",
             "no comparison with experiments in vitro or on the bench"),
    Category("in_vivo_validation", "4 In vivo validation results", ("none",), "", "none",
             "no patients or animals beside those that were fitted"),
    Category("population_based_validation", "5 Population-based validation results", ("none",), "", "none",
             "no published or registry cohort was held out and foretold"),
    Category("emergent_model_behavior", "6 Emergent model behavior", ("export",), "record.json: implied_export",
             "no implied export: the model has no healthy reference",
             "one behaviour only: thymic export over that of a healthy thymus"),
    Category("model_plausibility", "7 Model plausibility evidence", ("record",),
             "MODEL.toml with a source for each number; table of assumed numbers", "",
             "sources that say assumption, calibrated or unverified are counted in the table of assumed numbers"),
    Category("calculation_verification", "8 Calculation verification and uncertainty quantification by simulations of "
             "the context of use", ("certificate", "probability"),
             "record.json: certificate; derived.nc; thymodel scenario", "no certificate, or no endpoint",
             "uncertainty of parameters only; that of the structure is not in it"),
)
