"""What GC does to training on real images and real text: runs paired by seed, asked in docs/questions.md.

`make evidence DATA=…` runs them and writes docs/results.md. Read in this order: `settings` (what a run is), `questions`
(which runs), `resnet`, `images`, `text` (models and loops), `measure`, `cell` and `runner` (a process for each run),
`results` (their lines), `answers`, `sentences`, `figures`, `page`.
"""
