"""A document as one HTML page that stands alone and prints: contents, numbered captions, the source of each number."""

import base64

import jinja2
from markupsafe import Markup, escape

from thymodel.results.document import (
    Banner,
    Document,
    Grid,
    Paragraph,
    Picture,
    Reference,
    numeric,
    pieces_of,
    wide,
    widths,
)
from thymodel.results.frames import TEMPLATES


def html_page(document: Document) -> str:
    """The document as HTML without any reference to the outside."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cited": _cited, "image": _image}
    environment.tests |= {kind.__name__.lower(): _is(kind) for kind in (Banner, Grid, Paragraph, Picture)}
    return environment.get_template("report.html.j2").render(
        document=document, numeric=numeric, wide=wide, widths=widths)


def _is(kind: type):
    return lambda block: isinstance(block, kind)


def _cited(text: str) -> Markup:
    """Text whose numbers name the field that they are from, for readers who point at one and for programs."""
    if isinstance(text, Reference):
        return Markup('<a href="#{}">{}</a>').format(text.key, str(text))
    return Markup("").join(
        Markup('<span class="from" title="{}">{}</span>').format(field, piece) if field else escape(piece)
        for piece, field in pieces_of(text))


def _image(picture: Picture) -> Markup:
    """The figure inside the page: SVG as it is, PNG as a data URI."""
    if picture.svg:  # drawn by `drawing.svg`, which escapes what comes from a model
        return Markup(picture.svg)
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode()
    return Markup('<img alt="{}" src="{}">').format(picture.alt, source)
