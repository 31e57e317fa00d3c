"""Finished blocks of a scenario on disk, as one zarr array (quantity, arm, draw, subject), so that a
run that was stopped goes on.

Zarr because a block is a file of its own there, written beside its place and then renamed, with a checksum behind it;
and because numpy, xarray and Dask read the whole as one array, larger than the memory or not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thymodel.errors import Fault, InputError
from thymodel.results.prediction import Block
from thymodel.results.reconstitution import Judging
from thymodel.results.running import in_turn, on_cluster

_DIMENSIONS = ("quantity", "arm", "draw", "subject")


@dataclass(frozen=True)
class Place:
    """Where a scenario is computed: on so many `workers` (threads) of this machine, by default one a core, or on the
    Dask cluster whose scheduler has this address; and the `folder` in which finished blocks are kept, if any."""

    workers: int | None = None
    cluster: str | None = None
    folder: Path | None = None


def outcomes_at(place: Place, judging: Judging, identity: Mapping[str, str]) -> Iterator[tuple[Block, np.ndarray]]:
    """Each block with what was found: first those that are kept, then the others as they are computed, and kept.

    Args:
        identity: what the numbers depend on; a folder of anything else is refused.

    Raises:
        InputError: the folder belongs to something else, or there is no cluster.
    """
    todo, kept = judging.blocks, None
    if place.folder is not None:
        kept = _array(place.folder, judging, identity)
        rest = []
        for block in todo:
            if (values := _read(kept, block)) is None:
                rest.append(block)
            else:
                yield block, values
        todo = rest
    computed = on_cluster(judging, todo, place.cluster) if place.cluster else in_turn(judging, todo, place.workers)
    for block, values in computed:
        if kept is not None:
            kept[:, :, block.draws, block.subjects] = values
        yield block, values


def _array(folder: Path, judging: Judging, identity: Mapping[str, str]) -> Any:
    """The array of a folder, made where there is none."""
    where, sim = f"--out {folder}", judging.simulation
    try:
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec
    except ImportError:
        raise InputError([Fault(where, "zarr is not installed here", "pip install 'thymodel[dask]'")]) from None
    names = {"quantity": list(judging.quantities), "arm": [arm.name for arm in sim.arms]}
    attributes = {"thymodel": dict(identity)} | names
    shape = (*map(len, names.values()), len(judging.z), len(sim.subjects.standard))
    if not folder.exists() or not any(folder.iterdir()):
        return zarr.create_array(folder, shape=shape, chunks=(*shape[:2], *sim.size), dtype="float64",
                                 fill_value=float("nan"), compressors=(ZstdCodec(level=1), Crc32cCodec()),
                                 dimension_names=_DIMENSIONS, attributes=attributes,
                                 config={"write_empty_chunks": True})
    try:
        array = zarr.open_array(folder, mode="r+")
        mine = dict(array.attrs) == attributes and (array.shape, array.chunks) == (shape, (*shape[:2], *sim.size))
    except Exception:  # whatever zarr makes of a folder that is not its own
        mine = False
    if not mine:
        raise InputError([Fault(where, "holds something else than this scenario under this record, by this version",
                                "name a new folder, or remove this one")])
    return array


def _read(array: Any, block: Block) -> np.ndarray | None:
    """A block, if it is there and whole: a file that was cut short does not match its checksum."""
    try:
        values = np.asarray(array[:, :, block.draws, block.subjects])
    except Exception:  # of whichever codec met the damage first
        return None
    return None if np.isnan(values).all() else values
