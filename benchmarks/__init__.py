"""How long optimizer steps with GC take, beside the fastest step without it: `python -m benchmarks --help`."""
