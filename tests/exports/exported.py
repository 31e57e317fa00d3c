"""Models that are exported in these tests, from a record and from made-up specs."""

import hashlib
from pathlib import Path

from thymodel.results.population_export import load_population_model

ROOT = Path(__file__).resolve().parents[2]

POOL = """
title = "One pool"
description = "for a test"
start = -2
[constants]
c = { unit = "1/mg", value = 0.01, source = "made up" }
[parameters]
k = { unit = "1/day", value = 0.3, prior = "lognormal(median=0.3, sd=0.5)", source = "made up" }
n = { unit = "1", value = 1.5, source = "made up" }
half = { unit = "mg", value = 40, prior = "lognormal(median=40, sd=0.5)", source = "made up" }
share = { unit = "1", value = 0.6, prior = "logitnormal(median=0.6, sd=0.5)", source = "made up" }
shift = { unit = "mg", value = 2, prior = "normal(mean=2, sd=1)", source = "made up" }
[covariates]
gvhd = { unit = "1", value = 0, source = "made up" }
WT = { unit = "kg", value = 70, source = "made up" }
[expressions]
base = "5*share + 1"
slow = "piecewise(k, half*c < 0.2, k/2, half*c < 0.6, k/4)"
loss = "slow*(1 + gvhd) + k*hill(x/half, 0.7, n) + abs(min(shift, 0))*k*c"
[states.x]
unit = "mg"
initial = "half*c*half"
rate = "-loss*x"
[states.y]
unit = "mg"
initial = "0"
rate = "k*x - k*y*tanh(c*half)*(1 + log1p(c*half))"
[inputs.oral]
unit = "mg"
add = { x = "share*amount/(1 + c*amount)" }
[inputs.drip]
unit = "mg"
add = { y = "amount*share", x = "amount/2" }
[observables.left]
unit = "mg"
value = "x + shift"
[observables.made]
unit = "mg"
value = "y + 0.1*base*shift"
"""
POOL_SPEC = """
estimate = ["k", "half", "share", "shift"]
[data]
file = "data.csv"
sha256 = "HASH"
units = { TIME = "day", left = "mg", made = "mg", oral = "mg", drip = "mg", gvhd = "1", WT = "kg" }
[between_subject]
k = { sd = "halfnormal(sd=0.5)", source = "made up" }
half = { sd = "halfnormal(sd=0.5)", source = "made up" }
share = { sd = "halfnormal(sd=0.5)", scale = "logit", source = "made up" }
shift = { sd = "halfnormal(sd=0.3)", scale = "natural", source = "made up" }
[[correlation]]
effects = ["k", "half"]
prior = "lkj(shape=2)"
source = "made up"
[covariate_effects.weight]
parameter = "k"
covariate = "WT"
form = "power"
reference = 70
prior = "normal(mean=0.75, sd=0.1)"
source = "made up"
[likelihood.left]
error = "combined"
parameters = { additive = { prior = "lognormal(median=1, sd=1)", source = "made up" }, proportional = { prior = "lognormal(median=0.2, sd=1)", source = "made up" } }
[likelihood.made]
error = "student_t"
df = 4
offset = 0.5
parameters = { log_sd = { prior = "lognormal(median=0.3, sd=1)", source = "made up" } }
"""  # noqa: E501
POOL_DATA = """ID,TIME,EVID,CMT,AMT,RATE,DVID,DV,CENS,LIMIT,gvhd,WT
A,-1,0,.,.,.,left,5,0,.,0,80
A,0,1,oral,50,.,.,.,.,.,0,80
A,1,1,drip,30,15,.,.,.,.,0,80
A,2,0,.,.,.,left,30,0,.,0,80
A,2,0,.,.,.,made,12,0,.,0,80
A,2.5,2,.,.,.,.,.,.,.,1,80
A,5,0,.,.,.,left,9,1,4,1,80
A,5,0,.,.,.,made,20,-1,.,1,80
A,5,1,oral,20,.,.,.,.,.,1,80
A,8,0,.,.,.,made,10,1,.,0,80
A,8,0,.,.,.,left,12,-1,.,0,80
B,0,0,.,.,.,left,4,0,.,0,60
B,4,0,.,.,.,made,3,1,1,0,60
"""
HOMING_SPEC = """
model = "homing_wave"
estimate = ["D50", "G", "B0"]
[data]
file = "data.csv"
sha256 = "HASH"
units = { TIME = "day", cd4 = "cell/uL", rte4 = "cell/uL", progenitors = "Mcell/kg" }
[between_subject]
G = { sd = "halfnormal(sd=0.5)", source = "made up" }
[likelihood.cd4]
error = "lognormal"
parameters = { log_sd = { prior = "lognormal(median=0.3, sd=0.4)", source = "made up" } }
[likelihood.rte4]
error = "proportional"
parameters = { proportional = { prior = "lognormal(median=0.3, sd=0.4)", source = "made up" } }
"""
HOMING_DATA = """ID,TIME,EVID,CMT,AMT,DVID,DV,CENS
1,7,1,progenitors,9,.,.,.
1,30,0,.,.,cd4,40,0
1,30,0,.,.,rte4,1,1
1,60,0,.,.,rte4,3,0
1,200,0,.,.,cd4,170,0
"""
REGROWTH_SPEC = """
model = "lymphocyte_regrowth"
estimate = ["L0", "r_G", "t_half"]
[data]
file = "data.csv"
sha256 = "HASH"
units = { TIME = "day", lymphocytes = "cell/uL" }
[between_subject]
t_half = { sd = "halfnormal(sd=0.4)", source = "made up" }
[likelihood.lymphocytes]
error = "power"
parameters = { coefficient = { prior = "lognormal(median=0.5, sd=0.5)", source = "made up" }, exponent = { prior = "lognormal(median=0.8, sd=0.2)", source = "made up" } }
"""  # noqa: E501
REGROWTH_DATA = """ID,TIME,EVID,DVID,DV
1,-9,0,lymphocytes,700
1,-3,0,lymphocytes,50
1,12,0,lymphocytes,80
1,30,0,lymphocytes,500
"""


def written(folder, spec, data, model=None):
    head = 'title = "Made up"\npurpose = "for a test"\nsimulated = true\n'
    (folder / "data.csv").write_text(data)
    spec = spec + "[sampler]\nseed = 1\n"
    spec = spec.replace("HASH", hashlib.sha256(data.encode()).hexdigest())
    if model is not None:
        (folder / "pool.toml").write_text(model)
        spec = 'model = "pool.toml"\n' + spec
    (folder / "spec.toml").write_text(head + spec)
    return folder / "spec.toml"


def population_models(new_folder):
    """Population models: a record, three made-up specs."""
    def make(name, *texts):
        return load_population_model(written(new_folder(name), *texts))

    return {
        "thymus_core": load_population_model(ROOT / "fits" / "reset02_design"),
        "homing_wave": make("homing", HOMING_SPEC, HOMING_DATA),
        "lymphocyte_regrowth": make("regrowth", REGROWTH_SPEC, REGROWTH_DATA),
        "pool": make("pool", POOL_SPEC, POOL_DATA, POOL),
        "one_factor": make("one_factor", POOL_SPEC, POOL_DATA, POOL.replace(', x = "amount/2"', "")),
    }


def subject_of(found):
    """The number of a subject with doses, where any has some."""
    return next((k for k, s in enumerate(found.data.subjects, 1) if s.doses), 1)


def eta_of(found):
    return {name: 0.15 * (k + 1) * (-1) ** k for k, name in enumerate(found.spec.between_subject)}


CASES = ("thymus_core", "homing_wave", "lymphocyte_regrowth", "pool")
