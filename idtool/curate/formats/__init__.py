"""Formats of an exported data set (DESIGN §10): each writes rows with their pictures, and reads back what it wrote."""

from __future__ import annotations

from idtool.curate.formats.base import FORMATS, Format, Found, Item

__all__ = ["FORMATS", "Format", "Found", "Item"]
