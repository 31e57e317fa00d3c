"""What a notebook shows of a thing that is the last line of a cell: short, and with nothing in it that could run.

Texts of files and records are other people's: all of them are escaped here, and nowhere else.
"""

import html
from collections.abc import Mapping, Sequence

MOST = 12  # rows of a table


def card(title: str, sentences: Sequence[str] = (), rows: Sequence[Mapping[str, object]] = (), simulated: bool = False,
         reservation: str = "", warnings: Sequence[str] = ()) -> str:
    """HTML of a heading, sentences and a small table.

    Args:
        simulated: whether the numbers are from SIMULATED data, which is said first.
        reservation: why no number of it may be quoted.
    """
    banner = "<b>SIMULATED data.</b> " if simulated else ""
    banner += f"<b>{html.escape(reservation)}</b>. " if reservation else ""
    parts = [f"<p>{banner}{html.escape(title)}</p>"]
    parts += [f"<p><b>Warning.</b> {html.escape(text)}</p>" for text in warnings]
    parts += [f"<p>{html.escape(text)}</p>" for text in sentences]
    return f"<div>{''.join(parts)}{table_html(rows)}</div>"


def table_html(rows: Sequence[Mapping[str, object]]) -> str:
    """The first rows as a table, with how many more there are; nothing where there are none."""
    if not rows:
        return ""
    shown = rows[:MOST]
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in shown[0])
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row.values())}</tr>"
                   for row in shown)
    more = f"<p>and {len(rows) - MOST} more rows</p>" if len(rows) > MOST else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
