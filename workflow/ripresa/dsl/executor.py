"""Where the units of this call run, as rule files must know it: Snakemake says so only after it read them."""

on_hosts = False
"""Whether the executor `ansible` was chosen. It notes that itself, which comes before any rule file."""
