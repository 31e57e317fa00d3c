"""The study data that a spec names."""

from pathlib import Path

from thymodel.documents.data import NO_PATIENTS, StudyData, load_data
from thymodel.documents.limits import LARGEST_DATA, read_bytes
from thymodel.documents.spec import FitSpec
from thymodel.documents.toml import digest
from thymodel.errors import Fault, InputError


def load_study(spec: FitSpec, given: str | Path | None) -> tuple[StudyData, Path]:
    """The data, refused unless their digest is the one that the spec names; no patients where it names none."""
    if not spec.has_data:
        if given is not None:
            raise InputError([Fault(str(given), f"{spec.path} has published figures only", "leave out --data")])
        return NO_PATIENTS, spec.path
    path = Path(given) if given is not None else spec.path.parent / spec.data_file
    if not path.is_file():
        where = f"; {spec.data_where}" if spec.data_where else ""
        raise InputError([Fault(str(path), f"the study data are not there{where}", "give their place with --data")])
    found = digest(read_bytes(path, LARGEST_DATA, "the study's data"))
    if found != spec.data_sha256:
        raise InputError([Fault(str(path), f"not the data of this spec: sha256 is {found}, expected {spec.data_sha256}",
                                "if the data changed on purpose, write the new sha256 into the spec")])
    return load_data(path, spec.model, spec.columns), path
