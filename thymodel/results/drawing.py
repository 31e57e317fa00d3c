"""A drawing of a model's compartments as SVG: boxes are states, arrows are flows that its rates show.

Chains of equal stages are one box, pools that mirror others step by step (TREC in cells) share their box, and states
that only set the pace of others stand apart with a list of what they act on. No text of a person is needed.
"""

import html
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from thymodel.documents import units
from thymodel.documents.model import Model
from thymodel.dynamics.transfers import Flows, chains, flows
from thymodel.results.typesetting import Name, Typesetter, glyphs, name

_WIDE, _HIGH = 118, 62  # of a box, in pixels
_COLUMN, _ROW = 148, 92
_EDGE, _GAP = 24, 60
_MOST_COLUMNS = 8
_MOST_DASHED = 4  # more arrows of influence than this hide the flows
_FILLS = ("#e8f1fb", "#e9f5ea", "#fdf0e3", "#f3ecf8", "#fdf6d8", "#e6f4f4", "#fbe9ec", "#efefef")
_STROKES = ("#1f4e79", "#00664b", "#a34700", "#6a3d9a")
_INK = "#333"


@dataclass(frozen=True)
class Box:
    """What is drawn in one place: the states in it, how many stages, and where it stands."""

    states: tuple[str, ...]
    symbols: tuple[Name, ...]
    stages: int
    label: str
    units: tuple[str, ...]
    x: float = 0.0
    y: float = 0.0
    wide: float = _WIDE
    high: float = _HIGH
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrow:
    source: int
    target: int
    dashed: bool = False


@dataclass(frozen=True)
class Schematic:
    """Boxes with places, arrows between them (by index), and inputs by the box that they add to."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    inputs: tuple[tuple[str, int], ...]
    bands: tuple[int, ...]  # of each box: 0 upper, 1 lower, 2 apart
    wide: float
    high: float


def schematic(model: Model) -> Schematic:
    """Boxes, arrows and places for a model."""
    found = flows(model)
    boxes = _boxes(model, found)
    home = {state: k for k, box in enumerate(boxes) for state in box.states}
    pairs = [(home[a], home[b]) for a, b in found.flows if home[a] != home[b]]
    arrows = [Arrow(a, b) for a, b in dict.fromkeys(pairs)]
    linked = {k for arrow in arrows for k in (arrow.source, arrow.target)}
    bands = [2 if k not in linked else int(_per_volume(box.units[0])) for k, box in enumerate(boxes)]
    boxes = [_with_notes(box, home, boxes, found) if bands[k] == 2 else box for k, box in enumerate(boxes)]
    inputs, acting = _inputs(model, home, boxes)
    boxes, bands = boxes + acting, bands + [2] * len(acting)
    dashed = _dashed(found, home, bands, arrows)
    placed, wide, high = _place(boxes, arrows, bands, [k for _, k in inputs])
    return Schematic(tuple(placed), (*arrows, *dashed), tuple(inputs), tuple(bands), wide, high)


# --- boxes ---------------------------------------------------------------------------------------------------


def _boxes(model: Model, found: Flows) -> list[Box]:
    stems = {member: chain for chain in chains(model) for member in chain.members}
    shadows = _mirrors(model, found)
    names, boxes = Typesetter(model), []
    for state, item in model.states.items():
        if state in shadows.values() or (state in stems and state != stems[state].members[0]):
            continue
        if state in stems:
            chain = stems[state]
            boxes.append(Box(chain.members, (name(chain.stem),), len(chain.members), _short(item.label),
                             (item.unit,)))
            continue
        states = (state, *(shadows[key] for key in (state,) if key in shadows))
        boxes.append(Box(states, tuple(names.name(s) for s in states), 1, _short(item.label),
                         tuple(model.states[s].unit for s in states)))
    return boxes


def _short(label: str) -> str:
    """A label without what stands in brackets and behind the first comma."""
    return re.split(r"[,;]", re.sub(r"\s*\([^()]*\)", "", label))[0].strip()


def _per_volume(unit: str) -> bool:
    dimension = units.parse_unit(unit).dimension
    return dimension.get("length", 0) < 0


def _mirrors(model: Model, found: Flows) -> dict[str, str]:
    """State -> the state that mirrors it: two groups of pools, joined alike and fed from the same outside."""
    pools = [s for s in model.states if _per_volume(model.states[s].unit)]
    groups = _groups(pools, found.flows)
    shadows: dict[str, str] = {}
    for k, first in enumerate(groups):
        for second in groups[k + 1:]:
            alike = dict(zip(first, second, strict=False))
            if len(first) == len(second) > 1 and model.states[first[0]].unit != model.states[second[0]].unit and (
                    _joins(first, found.flows, alike) == _joins(second, found.flows, {s: s for s in second})):
                shadows |= {a: b for a, b in alike.items() if a not in shadows and a not in shadows.values()}
    return shadows


def _groups(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Names joined by pairs among themselves, in the order of their first ones."""
    groups = {key: {key} for key in names}
    for a, b in pairs:
        if a in groups and b in groups and groups[a] is not groups[b]:
            groups[a] |= groups[b]
            for key in groups[b]:
                groups[key] = groups[a]
    seen: list[set[str]] = []
    for key in names:
        if groups[key] not in seen:
            seen.append(groups[key])
    return [[key for key in names if key in group] for group in seen]


def _joins(group: Sequence[str], pairs: Sequence[tuple[str, str]], renamed: Mapping[str, str]) -> set[tuple[str, str]]:
    return {(renamed.get(a, a), renamed[b]) for a, b in pairs if b in group}


def _with_notes(box: Box, home: Mapping[str, int], boxes: Sequence[Box], found: Flows) -> Box:
    """A box that stands apart says what it acts on and what acts on it."""
    mine = set(box.states)
    acts = {home[b] for a, b in found.influences if a in mine} - {home[box.states[0]]}
    driven = {home[a] for a, b in found.influences if b in mine} - {home[box.states[0]]}
    notes = [f"{word} {', '.join(_written(boxes[k]) for k in sorted(places))}"
             for word, places in (("acts on", acts), ("follows", driven)) if places]
    return replace(box, notes=tuple(notes))


def _inputs(model: Model, home: Mapping[str, int], boxes: Sequence[Box]) -> tuple[list[tuple[str, int]], list[Box]]:
    """Inputs that add to a state, by box; inputs that multiply states, as boxes of their own."""
    tags, acting = [], []
    for key, item in model.inputs.items():
        tags += [(key, place) for place in dict.fromkeys(home[s] for s in item.add)]
        if item.multiply:
            struck = dict.fromkeys(home[s] for s in item.multiply)
            notes = ("multiplies " + ", ".join(_written(boxes[k]) for k in struck),)
            acting.append(Box((), (Name(key),), 1, _short(item.label), (), notes=notes))
    return tags, acting


def _dashed(found: Flows, home: Mapping[str, int], bands: Sequence[int], arrows: Sequence[Arrow]) -> list[Arrow]:
    pairs = dict.fromkeys((home[a], home[b]) for a, b in found.influences if home[a] != home[b]
                          and 2 not in (bands[home[a]], bands[home[b]]))
    joined = {(arrow.source, arrow.target) for arrow in arrows}
    new = [Arrow(a, b, dashed=True) for a, b in pairs if (a, b) not in joined]
    return new if len(new) <= _MOST_DASHED else []


def _written(box: Box) -> str:
    """The name of a box as the document writes it; of a chain, without the number of its stage."""
    return box.states[0][:-1] if box.stages > 1 else box.states[0]


# --- places --------------------------------------------------------------------------------------------------


def _place(boxes: list[Box], arrows: Sequence[Arrow], bands: Sequence[int], tagged: Sequence[int]):
    """Boxes with places: the upper band lineage by lineage, the lower band side by side, what stands apart below."""
    placed = list(boxes)
    pairs = [(str(a.source), str(a.target)) for a in arrows]
    bottom, right = float(_EDGE), 0.0
    for band in (0, 1):
        mine = [str(k) for k in range(len(boxes)) if bands[k] == band]
        left, top, deepest = float(_EDGE), bottom, bottom
        for group in _groups(mine, pairs):
            columns = _columns([int(k) for k in group], arrows)
            if band == 1 and left > _EDGE and (left - _EDGE) / _COLUMN + len(columns) > _MOST_COLUMNS:
                left, top = float(_EDGE), deepest
            first = 18 if set(map(int, group)) & set(tagged) else 0
            rows = max(len(column) for column in columns)
            for c, column in enumerate(columns):
                for r, k in enumerate(column):
                    offset = (rows - len(column)) / 2
                    placed[k] = replace(boxes[k], x=left + c * _COLUMN, y=top + first + (r + offset) * _ROW)
            deepest = max(deepest, top + first + rows * _ROW)
            right = max(right, left + len(columns) * _COLUMN - (_COLUMN - _WIDE))
            left, top = (float(_EDGE), deepest) if band == 0 else (left + (len(columns) + 0.25) * _COLUMN, top)
        bottom = deepest + (_GAP if band == 0 and mine and 1 in bands else 0)
    channels = len(_channels(arrows, bands))
    right += 16 + 14 * channels if channels else 0
    right = max(right, 3 * _COLUMN)
    return _place_apart(placed, bands, tagged, bottom, right + _EDGE)


def _columns(group: list[int], arrows: Sequence[Arrow]) -> list[list[int]]:
    """Columns of a group: a box stands right of what feeds it."""
    rank = dict.fromkeys(group, 0)
    for _ in group:  # a ring ends after as many rounds as there are boxes
        for arrow in arrows:
            if arrow.source in rank and arrow.target in rank:
                rank[arrow.target] = min(max(rank[arrow.target], rank[arrow.source] + 1), len(group) - 1)
    used = sorted(set(rank.values()))
    return [[k for k in group if rank[k] == column] for column in used]


def _place_apart(boxes: list[Box], bands: Sequence[int], tagged: Sequence[int], bottom: float, wide: float):
    left, size = float(_EDGE), 1.52 * _COLUMN
    row: list[int] = []
    bottom += 18 if any(bands[k] == 2 for k in tagged) else 0
    for k, box in enumerate(boxes):
        if bands[k] != 2:
            continue
        if row and left + size > max(wide, 2 * size + 2 * _EDGE):
            bottom, left, row = bottom + max(boxes[j].high for j in row) + 30, float(_EDGE), []
        text = sum(len(_wrapped(note, 40, 5)) for note in box.notes) + len(_wrapped(box.label, 40, 2)) - 1
        boxes[k] = replace(box, x=left, y=bottom, wide=size - 12, high=40.0 + 12 * text)
        wide = max(wide, left + size)
        left += size
        row.append(k)
    bottom += max((boxes[j].high for j in row), default=0) + (12 if row else 0)
    return boxes, wide, bottom + 34


def _channels(arrows: Sequence[Arrow], bands: Sequence[int]) -> list[int]:
    """Boxes of the lower band that the upper one feeds: each has a way of its own down the right side."""
    return sorted({a.target for a in arrows if bands[a.source] == 0 and bands[a.target] == 1 and not a.dashed})


def _wrapped(text: str, width: int, most: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=most, placeholder=" …", break_long_words=False)


# --- SVG -----------------------------------------------------------------------------------------------------


def svg(model: Model) -> str:
    """The drawing as a whole SVG document."""
    drawing = schematic(model)
    known = list(dict.fromkeys(unit for box in drawing.boxes for unit in box.units))
    fills = {unit: _FILLS[k % len(_FILLS)] for k, unit in enumerate(known)}
    title = html.escape(f"Compartments of {model.name}")
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {drawing.wide:.0f} {drawing.high:.0f}" '
             f'width="{drawing.wide:.0f}" height="{drawing.high:.0f}" role="img" aria-label="{title}" '
             f'font-family="Helvetica, Arial, sans-serif">', f"<title>{title}</title>", _MARKERS,
             f'<rect width="{drawing.wide:.0f}" height="{drawing.high:.0f}" fill="#ffffff"/>']
    parts += [_arrow(drawing, arrow) for arrow in drawing.arrows]
    parts += [_box(box, [fills[unit] for unit in box.units] or ["#ffffff"]) for box in drawing.boxes]
    tags: dict[int, int] = {}
    for key, place in drawing.inputs:
        parts.append(_tag(key, drawing.boxes[place], tags.get(place, 0)))
        tags[place] = tags.get(place, 0) + 1
    parts.append(_legend(fills, drawing.high))
    return "\n".join([*parts, "</svg>", ""])


_MARKERS = "<defs>" + "".join(
    f'<marker id="a{k}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    f'<path d="M0,0.8 L7.5,4 L0,7.2 z" fill="{colour}"/></marker>' for k, colour in enumerate((_INK, *_STROKES))
) + "</defs>"


def _arrow(drawing: Schematic, arrow: Arrow) -> str:
    source, target = drawing.boxes[arrow.source], drawing.boxes[arrow.target]
    bands = (drawing.bands[arrow.source], drawing.bands[arrow.target])
    if bands == (0, 1) and not arrow.dashed:
        return _way_down(drawing, arrow)
    middle, goal = source.y + source.high / 2, target.y + target.high / 2
    start, end = source.x + source.wide, target.x
    if arrow.dashed or end < start:  # back, or an influence: below the boxes
        low = max(source.y + source.high, target.y + target.high)
        shape = (f"M{source.x + source.wide / 2:.0f},{source.y + source.high:.0f} C{source.x + source.wide / 2:.0f},"
                 f"{low + 34:.0f} {target.x + target.wide / 2:.0f},{low + 34:.0f} {target.x + target.wide / 2:.0f},"
                 f"{target.y + target.high:.0f}")
    elif end - start > _COLUMN:  # over what stands between
        top, x1, x2 = min(source.y, target.y), source.x + 0.75 * source.wide, target.x + 0.25 * target.wide
        shape = (f"M{x1:.0f},{source.y:.0f} C{x1 + 40:.0f},{top - 26:.0f} "
                 f"{x2 - 40:.0f},{top - 26:.0f} {x2:.0f},{target.y:.0f}")
    else:
        half = (start + end) / 2
        shape = f"M{start:.0f},{middle:.0f} C{half:.0f},{middle:.0f} {half:.0f},{goal:.0f} {end:.0f},{goal:.0f}"
    style = ' stroke-dasharray="4 3"' if arrow.dashed else ""
    return f'<path d="{shape}" fill="none" stroke="{_INK}" stroke-width="1.3"{style} marker-end="url(#a0)"/>'


def _way_down(drawing: Schematic, arrow: Arrow) -> str:
    """From the upper band down its right side and along the gap to a box of the lower band."""
    source, target = drawing.boxes[arrow.source], drawing.boxes[arrow.target]
    ways = _channels(drawing.arrows, drawing.bands)
    k = ways.index(arrow.target)
    right = max(box.x + box.wide for box, band in zip(drawing.boxes, drawing.bands, strict=True) if band == 0)
    top = min(box.y for box, band in zip(drawing.boxes, drawing.bands, strict=True) if band == 1)
    x, colour = right + 16 + 14 * k, k % len(_STROKES)
    level = top - 32 - 12 * (len(ways) - 1 - k)
    end = target.x + target.wide / 2
    shape = (f"M{source.x + source.wide:.0f},{source.y + source.high / 2:.0f} H{x - 5:.0f} q5,0 5,5 V{level - 5:.0f} "
             f"q0,5 -5,5 H{end + 5:.0f} q-5,0 -5,5 V{target.y:.0f}")
    return (f'<path d="{shape}" fill="none" stroke="{_STROKES[colour]}" stroke-width="1.3" '
            f'marker-end="url(#a{colour + 1})"/>')


def _box(box: Box, fills: Sequence[str]) -> str:
    parts = []
    for k in (2, 1) if box.stages > 1 else (1,) if len(box.states) > 1 else ():
        parts.append(f'<rect x="{box.x + 4 * k:.0f}" y="{box.y + 4 * k:.0f}" '
                     f'width="{box.wide:.0f}" height="{box.high:.0f}" '
                     f'rx="6" fill="{fills[-1]}" stroke="#999" stroke-width="0.8"/>')
    dash = ' stroke-dasharray="5 3"' if not box.states else ""
    parts.append(f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.wide:.0f}" height="{box.high:.0f}" rx="6" '
                 f'fill="{fills[0]}" stroke="{_INK}" stroke-width="1"{dash}/>')
    head = '<tspan>, </tspan>'.join(_symbol(symbol) for symbol in box.symbols)
    head += f'<tspan font-weight="normal" font-size="11"> × {box.stages} stages</tspan>' if box.stages > 1 else ""
    parts.append(_text(box.x + 8, box.y + 17, head, 13.5, weight="bold"))
    apart = bool(box.notes) or box.wide > _WIDE
    words = _wrapped(box.label, 40 if apart else 22, 2 if apart else 3)
    lines = words + [line for note in box.notes for line in _wrapped(note, 40, 5)]
    for k, line in enumerate(lines):
        parts.append(_text(box.x + 8, box.y + 31 + 12 * k, html.escape(line), 9.6,
                           colour="#333" if k < len(words) else "#666"))
    return "".join(parts)


def _symbol(symbol: Name) -> str:
    """A symbol with what stands below it; single letters in italics."""
    base = glyphs(symbol.base)
    style = ' font-style="italic"' if len(base) == 1 else ""
    text = f"<tspan{style}>{html.escape(base)}</tspan>"
    if symbol.below:
        below = ",".join(glyphs(piece) for piece in symbol.below)
        text += f'<tspan dy="3.5" font-size="9.5">{html.escape(below)}</tspan><tspan dy="-3.5">&#8203;</tspan>'
    return text


def _tag(key: str, box: Box, k: int) -> str:
    """A dose: a small flag above the box that it adds to."""
    label, x, y = html.escape(key), box.x + 12 + 74 * k, box.y - 22
    size = 6.2 * len(key) + 12
    return (f'<rect x="{x:.0f}" y="{y:.0f}" width="{size:.0f}" height="15" rx="7" fill="#333"/>'
            + _text(x + size / 2, y + 11, label, 9.6, colour="#ffffff", anchor="middle")
            + f'<path d="M{x + 10:.0f},{y + 15:.0f} V{box.y:.0f}" '
              f'stroke="{_INK}" stroke-width="1.3" marker-end="url(#a0)"/>')


def _legend(fills: Mapping[str, str], high: float) -> str:
    parts, x, y = [], float(_EDGE), high - 24
    for unit, fill in fills.items():
        label = "pure number" if unit == "1" else unit
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="12" height="12" rx="2" fill="{fill}" stroke="#999"/>')
        parts.append(_text(x + 17, y + 10, html.escape(label), 9.6))
        x += 34 + 5.6 * len(label)
    return "".join(parts)


def _text(x: float, y: float, inside: str, size: float, weight: str = "", colour: str = "#111",
          anchor: str = "") -> str:
    extra = (f' font-weight="{weight}"' if weight else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}"{extra}>{inside}</text>'
