"""Does GC help on the digits? Widths, training-set sizes, SGDM and Adam, with and without batch normalization.

`python -m examples.study` (or `make study`) trains them all and writes a page with its figure, as docs/digits.md.
Real images and real text: `examples.evidence`. Read in this
order: `network` (with batch normalization, by hand), `experiment` (the grid, and one run), `page`, `figure`.
"""
