"""A document as a Word file: heading styles, captions with fields, tables that repeat their head, alternative texts.

Needs python-docx and resvg-py (extra `docx`); nothing else imports this module.
"""

import io
import re
import zipfile
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from xml.sax.saxutils import escape

import docx
from docx.enum.section import WD_ORIENT, WD_SECTION
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls, qn
from docx.shared import Mm, Pt, RGBColor

from thymodel.results.document import Banner, Block, Document, Grid, Paragraph, Picture, numeric, wide, widths, xml_text
from thymodel.results.raster import png_of

_PAGE, _SIDE, _TOP = (210, 297), 18, 20  # A4 and its margins, in mm
_WIDE_FIGURE = 9.0  # inches, from which a figure asks for a page on its side
_CAPTION_ROOM = 32  # mm that a figure leaves on its page
_COLOURS = {"simulated": "A34700", "warned": "A34700", "failed": "B00000", "passed": "00664B"}


def docx_bytes(document: Document) -> bytes:
    """The Word file. It has no date of its own beyond that of the record: the same record makes the same file."""
    file = docx.Document()
    _set_styles(file)
    _set_page(file.sections[0], False)
    _set_properties(file, document)
    _head_and_foot(file, document)
    writer = _Writer(file, document)
    writer.front()
    for section in document.sections:
        writer.heading(section.title, section.key, bool(section.blocks) and _on_side(section.blocks[0]))
        for block in section.blocks:
            writer.block(block)
    out = io.BytesIO()
    file.save(out)
    return _undated(out)


def _undated(made: io.BytesIO) -> bytes:
    """The same archive without the moment at which it was packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0)), old.read(entry), zipfile.ZIP_DEFLATED)
    return out.getvalue()


# --- styles and pages ----------------------------------------------------------------------------------------


def _set_styles(file: Any) -> None:
    styles = file.styles
    for name in ("Normal", "Title", "Heading 1", "Caption"):
        font = styles[name].font
        font.name, font.color.rgb = "Arial", RGBColor(0x1A, 0x1A, 0x1A)
        fonts = styles[name].element.get_or_add_rPr().get_or_add_rFonts()
        for kind in ("asciiTheme", "hAnsiTheme", "eastAsiaTheme", "cstheme"):  # themes would win over the name
            fonts.attrib.pop(qn(f"w:{kind}"), None)
        fonts.set(qn("w:hAnsi"), "Arial")
        fonts.set(qn("w:cs"), "Arial")
    styles["Normal"].font.size, styles["Normal"].paragraph_format.space_after = Pt(10), Pt(5)
    styles["Title"].font.size, styles["Title"].font.bold = Pt(18), True
    styles["Heading 1"].font.size = Pt(14)
    caption = styles["Caption"]
    caption.font.size, caption.font.bold, caption.font.italic = Pt(9), True, False
    caption.paragraph_format.space_before, caption.paragraph_format.space_after = Pt(8), Pt(3)
    for name, size, colour in (("Result", 10, None), ("Note", 8, "555555"), ("Table Text", 7.5, None),
                               ("Code", 6.5, None), ("Banner", 10, None), ("Contents Entry", 10, None)):
        style = styles.add_style(name, WD_STYLE_TYPE.PARAGRAPH)
        style.base_style, style.font.size = styles["Normal"], Pt(size)
        if colour is not None:
            style.font.color.rgb = RGBColor.from_string(colour)
    styles["Table Text"].paragraph_format.space_after = Pt(0)
    styles["Note"].paragraph_format.space_before, styles["Note"].paragraph_format.space_after = Pt(2), Pt(2)
    styles["Contents Entry"].paragraph_format.space_after = Pt(2)
    styles["Code"].font.name = "Courier New"
    styles["Banner"].font.bold = True


def _set_page(section: Any, on_side: bool) -> None:
    wide_side, high_side = _PAGE[::-1] if on_side else _PAGE
    section.orientation = WD_ORIENT.LANDSCAPE if on_side else WD_ORIENT.PORTRAIT
    section.page_width, section.page_height = Mm(wide_side), Mm(high_side)
    section.left_margin = section.right_margin = Mm(_SIDE)
    section.top_margin = section.bottom_margin = Mm(_TOP)
    section.header_distance = section.footer_distance = Mm(9)


def _room(on_side: bool) -> tuple[float, float]:
    """Width and height of the text of a page, in mm."""
    wide_side, high_side = _PAGE[::-1] if on_side else _PAGE
    return wide_side - 2 * _SIDE, high_side - 2 * _TOP


def _set_properties(file: Any, document: Document) -> None:
    made = datetime.fromisoformat(document.created)
    properties = file.core_properties
    properties.title, properties.author = xml_text(document.title)[:255], "thymodel"
    properties.subject = "SIMULATED data" if document.simulated else ""
    properties.comments = f"record {document.digest}"
    properties.created = properties.modified = made.replace(tzinfo=None)


def _head_and_foot(file: Any, document: Document) -> None:
    section = file.sections[0]
    head = section.header.paragraphs[0]
    head.style, head.text = file.styles["Note"], xml_text(document.title)
    for text in document.running:
        line = section.header.add_paragraph(style="Banner")
        run = line.add_run(xml_text(text))
        run.font.size, run.font.color.rgb = Pt(9), RGBColor.from_string(_COLOURS["simulated"])
        line.paragraph_format.space_after = Pt(0)
    foot = section.footer.paragraphs[0]
    foot.style = file.styles["Note"]
    foot.add_run(xml_text(f"{document.name}, record {document.digest[:16]}, page "))
    _add_field(foot, "PAGE", "1")
    foot.add_run(" of ")
    _add_field(foot, "NUMPAGES", "1")


def _add_field(paragraph: Any, instruction: str, shown: str) -> None:
    """A field that Word renews by itself, with what it shows until then."""
    paragraph._p.append(parse_xml(
        f'<w:fldSimple {nsdecls("w")} w:instr=" {instruction} "><w:r><w:t>{escape(shown)}</w:t></w:r></w:fldSimple>'))


# --- blocks --------------------------------------------------------------------------------------------------


class _Writer:
    """Writes blocks one after the other; turns the page where a block needs the wide way."""

    def __init__(self, file: Any, document: Document) -> None:
        self.file, self.document, self.on_side, self.marks = file, document, False, 0

    def front(self) -> None:
        self.file.add_paragraph(xml_text(self.document.title), style="Title")
        self.file.add_paragraph(xml_text(f"Record {self.document.name}, made {self.document.created}, digest "
                                       f"{self.document.digest}"), style="Note")
        for banner in self.document.banners:
            self.block(banner)
        for section in self.document.sections:
            entry = self.file.add_paragraph(style="Contents Entry")
            entry._p.append(parse_xml(
                f'<w:hyperlink {nsdecls("w")} w:anchor="{_anchor(section.key)}" w:history="1"><w:r><w:t>'
                f"{escape(xml_text(section.title))}</w:t></w:r></w:hyperlink>"))

    def turn(self, on_side: bool) -> None:
        if on_side != self.on_side:
            _set_page(self.file.add_section(WD_SECTION.NEW_PAGE), on_side)
            self.on_side = on_side

    def heading(self, title: str, key: str, on_side: bool) -> None:
        """On the page of what follows: a heading alone on the page before would be a heading of nothing."""
        self.turn(on_side)
        heading = self.file.add_heading(xml_text(title), 1)
        self._mark(heading, key)

    def _mark(self, paragraph: Any, key: str) -> None:
        """A bookmark that the contents lead to."""
        self.marks += 1
        start = f'<w:bookmarkStart {nsdecls("w")} w:id="{self.marks}" w:name="{_anchor(key)}"/>'
        paragraph._p.insert(1, parse_xml(start))
        paragraph._p.append(parse_xml(f'<w:bookmarkEnd {nsdecls("w")} w:id="{self.marks}"/>'))

    def block(self, block: Block) -> None:
        match block:
            case Banner():
                self._banner(block)
            case Paragraph():
                self._paragraph(block)
            case Grid():
                self._grid(block)
            case Picture():
                self._picture(block)

    def _banner(self, banner: Banner) -> None:
        paragraph = self.file.add_paragraph(style="Banner")
        colour = _COLOURS[banner.mood]
        paragraph.add_run(xml_text(banner.text)).font.color.rgb = RGBColor.from_string(colour)
        sides = "".join(f'<w:{side} w:val="single" w:sz="12" w:space="4" w:color="{colour}"/>'
                        for side in ("top", "left", "bottom", "right"))
        paragraph._p.get_or_add_pPr().append(parse_xml(f'<w:pBdr {nsdecls("w")}>{sides}</w:pBdr>'))
        paragraph.paragraph_format.left_indent = paragraph.paragraph_format.right_indent = Mm(2)

    def _paragraph(self, block: Paragraph) -> None:
        style = {"text": "Normal", "result": "Result", "note": "Note", "bullet": "List Bullet", "code": "Code"}
        if block.style == "code":
            self.turn(False)
        self.file.add_paragraph(xml_text(block.text), style=style[block.style])

    def _caption(self, label: str, text: str) -> Any:
        """"Table 3. ..." whose number is a field, so that Word can list and renumber."""
        kind, _, number = label.partition(" ")
        paragraph = self.file.add_paragraph(f"{kind} ", style="Caption")
        _add_field(paragraph, rf"SEQ {kind} \* ARABIC", number)
        paragraph.add_run(xml_text(f". {text}"))
        return paragraph

    def _grid(self, block: Grid) -> None:
        self.turn(_on_side(block))
        end = ". SIMULATED data" if self.document.simulated else ""
        self._caption(block.label, block.table.title + end).paragraph_format.keep_with_next = True
        self.file.element.body.insert_element_before(_table(block, _room(self.on_side)[0]), "w:sectPr")
        notes = block.table.notes or ("",)  # two tables without a paragraph between them would be one
        for note in notes:
            self.file.add_paragraph(xml_text(note), style="Note")

    def _picture(self, block: Picture) -> None:
        self.turn(_on_side(block))
        room_wide, room_high = _room(self.on_side)
        room_high -= _CAPTION_ROOM + 4 * (len(block.caption) // 120)
        wanted = 25.4 * block.width
        width = min(wanted, room_wide, room_high * block.width / block.height)
        paragraph = self.file.add_paragraph()
        paragraph.alignment, paragraph.paragraph_format.keep_with_next = WD_ALIGN_PARAGRAPH.CENTER, True
        shape = paragraph.add_run().add_picture(io.BytesIO(png_of(block)), width=Mm(width))
        shape._inline.docPr.set("descr", xml_text(block.alt))
        shape._inline.docPr.set("title", block.label)
        self._caption(block.label, block.caption)


def _on_side(block: Block) -> bool:
    """Whether a table or figure asks for a page on its side; a paragraph takes any."""
    if isinstance(block, Picture):
        return block.width > _WIDE_FIGURE and block.width > 1.1 * block.height
    return isinstance(block, Grid) and wide(block.table)


def _anchor(key: str) -> str:
    """A name that a bookmark may have: letters, digits and underscores, 40 at most."""
    return "s_" + re.sub(r"\W", "_", key)[:36]


def _table(block: Grid, room: float) -> Any:
    """A table with a head that is repeated on every page, as XML: cell by cell takes minutes for a long listing."""
    table = block.table
    sizes = [int(56.7 * room * share) for share in widths(table)]  # twentieths of a point
    right = numeric(table)
    border = "".join(f'<w:{side} w:val="single" w:sz="{size}" w:space="0" w:color="{colour}"/>'
                     for side, size, colour in _BORDERS)
    head = _row(table.columns, sizes, right, True)
    body = "".join(_row(row, sizes, right, False) for row in table.rows)
    return parse_xml(
        f'<w:tbl {nsdecls("w")}><w:tblPr><w:tblW w:w="{sum(sizes)}" w:type="dxa"/><w:tblBorders>{border}</w:tblBorders>'
        '<w:tblLayout w:type="fixed"/><w:tblCellMar><w:left w:w="40" w:type="dxa"/><w:right w:w="60" w:type="dxa"/>'
        f'</w:tblCellMar><w:tblCaption w:val="{escape(block.label)}"/></w:tblPr><w:tblGrid>'
        + "".join(f'<w:gridCol w:w="{size}"/>' for size in sizes) + f"</w:tblGrid>{head}{body}</w:tbl>")


_BORDERS = (("top", 8, "444444"), ("bottom", 8, "444444"), ("insideH", 4, "D0D0D0"))
_RIGHT = '<w:jc w:val="right"/>'


def _row(cells: Sequence[str], sizes: Sequence[int], right: Sequence[bool], head: bool) -> str:
    repeat = "<w:tblHeader/>" if head else ""
    shade = '<w:shd w:val="clear" w:color="auto" w:fill="EFEFEF"/>' if head else ""
    bold = "<w:rPr><w:b/></w:rPr>" if head else ""
    made = "".join(
        f'<w:tc><w:tcPr><w:tcW w:w="{size}" w:type="dxa"/>{shade}</w:tcPr><w:p><w:pPr><w:pStyle w:val="TableText"/>'
        f'{_RIGHT if to_right else ""}</w:pPr><w:r>{bold}<w:t xml:space="preserve">'
        f"{escape(xml_text(cell))}</w:t></w:r></w:p></w:tc>"
        for cell, size, to_right in zip(cells, sizes, right, strict=True))
    return f"<w:tr><w:trPr><w:cantSplit/>{repeat}</w:trPr>{made}</w:tr>"
