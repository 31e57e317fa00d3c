"""A table as a document shows it: numbered and captioned by whoever sets it (HTML, Word, LaTeX, a bundle)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TitledTable:
    """Cells are text, already rounded as their Monte-Carlo error allows.

    Args:
        key: what other places call it, such as "priors"; unique within a document.
        title: its caption.
        columns: heads, with units.
        rows: as many cells as there are columns, each.
        notes: sentences that stand below it: what an interval is, where a value comes from, what a person must write.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.key}: a row has not {len(self.columns)} cells")
