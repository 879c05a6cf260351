# A campaign: `snakemake --rerun-incomplete` starts it and goes on after anything.


include: "rules/common.smk"


for family in config["families"]:

    include: f"rules/{family}.smk"


rule all:
    default_target: True
    input:
        campaign.goals,


localrules:
    all,
