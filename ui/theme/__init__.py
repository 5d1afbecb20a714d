"""How the pages look: a Gradio theme without a download, the style sheets, and the scripts that draw the pages."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).resolve().parent
PIECES = FOLDER / "pieces.css"  # the part of the style that the sign-in page shares
STYLES = (PIECES, *(FOLDER / f"{part}.css" for part in ("frame", "chat", "overlays", "operator")))
"""In this order: a later rule wins."""
ICON = FOLDER / "icon.png"

_FONT = ("ui-sans-serif", "-apple-system", "Segoe UI", "Inter", "Roboto", "Cantarell", "Noto Sans", "sans-serif")
_FONT_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """Stone greys and one steel blue; the fonts of the reader's own system, so that nothing is fetched."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=_FONT,
        font_mono=_FONT_MONO,
    ).set(
        body_background_fill="var(--hone-paper)",
        body_background_fill_dark="var(--hone-paper)",
        body_text_color="var(--hone-ink)",
        body_text_color_dark="var(--hone-ink)",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
    )


def script(*parts: str) -> str:
    """The body of a page's script: the drawing tools, then the page's own parts. It runs inside one function, so each
    part can call the functions of all; what a part does at once may use only what stands before it."""
    return "\n".join((FOLDER / part).read_text(encoding="utf-8") for part in ("draw.js", *parts))
