"""SLURM as the campaign sees it: what was asked of it, what it says, and what follows. Knows no Snakemake."""
