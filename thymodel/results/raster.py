"""Drawings as PNG, for formats that take no SVG."""

from pathlib import Path

import matplotlib

from thymodel.results.document import Picture

_DPI = 200


def png_of(picture: Picture) -> bytes:
    """A figure as PNG; needs resvg-py (extra `docx`) where it is SVG."""
    if not picture.svg:
        return picture.png
    import resvg_py

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"  # the same drawing on every machine
    return bytes(resvg_py.svg_to_bytes(
        svg_string=picture.svg, width=int(_DPI * picture.width), background="#ffffff", skip_system_fonts=True,
        font_files=[str(fonts / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf")],
        font_family="DejaVu Sans", sans_serif_family="DejaVu Sans"))
