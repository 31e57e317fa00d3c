"""What a netCDF file says of itself, looked at before anything of it is unpacked."""

import io
import math
from pathlib import Path

import h5py

from thymodel.documents.limits import LARGEST_ARRAYS, LARGEST_PACKING, SMALL_ARRAYS
from thymodel.errors import RecordError


def refuse_claims(source: Path | io.BytesIO) -> None:
    """Refuses a file whose arrays lie elsewhere, or would unpack to more than such a file can hold.

    Links and virtual or external arrays let a file show what is in another one; an array of HDF5 may claim any shape in
    a few bytes.

    Raises:
        RecordError: the array, and what is wrong with it.
        OSError, RuntimeError, ...: as h5py raises them for a damaged file.
    """
    size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
    where = str(source) if isinstance(source, Path) else "a netCDF file"
    most = min(LARGEST_ARRAYS, SMALL_ARRAYS + LARGEST_PACKING * size)
    total = 0
    with h5py.File(source, "r") as file:
        file.attrs.get("_nc3_strict")  # h5netcdf reads it first, and where that fails it leaves a half-made file behind
        for name, item in _objects(file, where):
            if not isinstance(item, h5py.Dataset):
                continue
            if item.is_virtual or item.external:
                raise RecordError(f"{where}: {name!a}: its values lie in another file")
            total += math.prod(item.shape or ()) * item.dtype.itemsize
            if total > most:
                raise RecordError(f"{where}: {name!a}: arrays of more than {most} bytes in a file of {size}")


def _objects(file: h5py.File, where: str) -> list[tuple[str, object]]:
    """Groups and arrays by name, each once."""
    found: list[tuple[str, object]] = []
    file.visititems_links(lambda name, link: found.append((name, link)))  # an exception in it would become another
    for name, link in found:
        if not isinstance(link, h5py.HardLink):
            raise RecordError(f"{where}: {name!a}: a link; a record has none")
    return [(name, file[name]) for name, _ in found]
