"""Programs of our own that workloads run: `python -m ripresa.families.benchmarks.programs.stream --help`.

Each prints one JSON document, `{"metrics": {name: value}, "details": {...}}`, which its workload reads as
it would read that of any other program; units and directions are the workload's to say.
"""
