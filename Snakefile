# A campaign: `snakemake --rerun-incomplete` starts it and goes on after anything.

configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/benchmarks.smk"


rule all:
    default_target: True
    input:
        BENCHMARKS,


localrules:
    all,
