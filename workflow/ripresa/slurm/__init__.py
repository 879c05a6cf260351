"""SLURM: what is asked of it, what it tells, and what that means. Knows neither Snakemake nor any family."""
