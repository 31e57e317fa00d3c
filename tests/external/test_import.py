"""The published population data sets are read as they are, by maps alone, and give a study that fits can use."""

import csv

import pytest

from thymodel.documents.data import load_data
from thymodel.documents.event_import import import_events
from thymodel.documents.import_file import csv_text
from thymodel.documents.import_map import NO_MAP, load_import_map
from thymodel.documents.model import parse_model
from thymodel.documents.rows import DataColumns
from thymodel.errors import InputError

# folder: (map, inputs, observables, covariates, subjects, doses, measurements) as MODEL.md and EXPECTED.json count them
SETS = {
    "acop2016_Bolus_2CPT": ('not_used = ["SS", "II", "LNDV"]\nconstant = { DVID = "cp" }\n[cmt]\n1 = "bolus"\n',
                            ["bolus"], ["cp"], ["DOSE"], 120, 120, 2280),
    "phenobarbital": ('constant = { DVID = "cp", CMT = "bolus" }\n', ["bolus"], ["cp"], ["WT", "APGR"], 59, 589, 155),
    "pump_failures": ('columns = { DV = "y" }\nconstant = { TIME = "0", DVID = "failures" }\n', [], ["failures"],
                      ["group", "logtstd"], 10, 0, 10),
    "theophylline": ('constant = { DVID = "conc" }\n[cmt]\n1 = "oral"\n2 = "plasma"\n', ["oral"], ["conc"], ["WT"],
                     12, 12, 132),
    "torsten_two_cpt_population": ('[cmt]\n1 = "gut"\n', ["gut"], ["conc"], [], 10, 150, 530),
    "torsten_two_cpt_single": ('[cmt]\n1 = "gut"\n', ["gut"], ["conc"], [], 1, 15, 53),
    "warfarin_pkpd": ('replicate_gap = 0.001\nconstant = { CMT = "oral" }\n[codes.sex]\nmale = 0\nfemale = 1\n',
                      ["oral"], ["cp", "pca"], ["wt", "age", "sex"], 32, 32, 483),
    "wbcSim_friberg": ('constant = { DVID = "wbc" }\n[cmt]\n1 = "centre"\n', ["centre"], ["wbc"],
                       ["V2I", "V1I", "CLI"], 45, 52, 176),
}


def a_model(inputs, observables, covariates):
    text = ['title = "names only"', 'description = "for a test"', 'time = "hour"', "[states.x]", 'unit = "1"',
            'initial = "0"', 'rate = "0"']
    for name in covariates:
        text += [f"[covariates.{name}]", 'unit = "1"', "value = 1", 'source = "made up"']
    for name in inputs:
        text += [f"[inputs.{name}]", 'unit = "1"', 'add = { x = "amount" }']
    for name in observables:
        text += [f"[observables.{name}]", 'unit = "1"', 'value = "x"']
    return parse_model("\n".join(text), "names.toml", "names")


@pytest.mark.parametrize("name", SETS)
def test_a_published_data_set_imports_without_edits(name, external, tmp_path):
    source = external / "pop_pkpd" / name / "data.csv"
    if not source.is_file():
        pytest.skip(f"no data set {name} among the published problems")
    map_text, inputs, observables, covariates, subjects, doses, measured = SETS[name]
    (tmp_path / "map.toml").write_text(map_text)
    found = import_events(source, load_import_map(tmp_path / "map.toml"))
    (tmp_path / "data.csv").write_text(csv_text(found))
    units = {"TIME": "hour"} | {item: "1" for item in (*inputs, *observables, *covariates)}
    data = load_data(tmp_path / "data.csv", a_model(inputs, observables, covariates), DataColumns(units=units))

    original = list(csv.DictReader(source.read_text().splitlines()))
    counts = found.disposition
    assert counts["rows of the source"] == len(original) == len(found.fates)
    assert len(original) == sum(counts[f"rows {kind}"] for kind in ("kept", "expanded", "merged", "dropped"))
    assert len(data.subjects) == subjects
    assert sum(len(subject.doses) for subject in data.subjects) == doses
    values = [o.value for subject in data.subjects for o in subject.observations]
    assert len(values) == measured
    column = next(heading for heading in ("DV", "dv", "conc", "y") if heading in original[0])
    evid = next((heading for heading in ("EVID", "evid") if heading in original[0]), None)
    wanted = [float(row[column]) for row in original if evid is None or row[evid] == "0"]
    assert sorted(values) == sorted(wanted)


def test_what_a_map_must_say_is_asked_for_by_row(external):
    source = external / "pop_pkpd" / "warfarin_pkpd" / "data.csv"
    with pytest.raises(InputError, match=r"row 152: the same subject, time and cp as row 151.*replicate_gap"):
        import_events(source, NO_MAP)
