# Stacking: eleven phases, each a rule of its name, from raw light frames to a stacked image (docs/stacking.md).

import json
import subprocess
import sys

from ripresa.dsl import Units, canonical, guard


def stacking_plan(*chunks):
    """The frames and their division into chunks: the family knows, which rule files do not import."""
    asked = [sys.executable, "workflow/scripts/stacking_plan.py", json.dumps(config["stacking"])]
    answer = subprocess.run(
        [*asked, campaign.dir, str(workflow.cores or 1), *map(str, chunks)], capture_output=True, text=True
    )
    if answer.returncode:
        raise WorkflowError(answer.stderr.strip())
    return json.loads(answer.stdout)


stack = stacking_plan()


scattergather:
    stacking=stack["chunks"],


stacking_items = gather.stacking("{scatteritem}")
if len(stacking_items) != stack["chunks"]:  # --set-scatter
    stack = stacking_plan(len(stacking_items))


def stacking_section(*names):
    return {name: config["stacking"].get(name) for name in names}


def stacking_settings(*names):
    """The part of the configuration that a phase depends on, as JSON, so that nothing else makes it run again."""
    return canonical(stacking_section(*names))


def stacking_units(pattern):
    """One unit for each chunk of frames or band of rows, or a single one."""
    if "{scatteritem}" not in pattern:
        return Units(pattern, parameters=[{}])
    return Units(pattern, parameters=[{"scatteritem": item} for item in stacking_items])


def stacking_chunk(wildcards):
    return [path for _, path in stack["frames"][wildcards.scatteritem]]


scans = stacking_units("stacking/scan/{scatteritem}.json")
# Its settings are in its name, because Snakemake overlooks a changed parameter of a job with ancient input.
reference_grid = Units(
    "stacking/reference/{digest}.json",
    parameters=[stacking_section("lights", "recursive", "simulate", "bayer", "reference")],
)
REFERENCE = reference_grid.targets()[0]
registrations = stacking_units("stacking/registration/{scatteritem}.json")
registered = stacking_units("stacking/registered/{scatteritem}.fits")
normalization = stacking_units("stacking/normalization.npz")
global_metrics = stacking_units("stacking/global_metrics.npz")
tile_grid = stacking_units("stacking/tile_grid.json")
local_metrics = stacking_units("stacking/local_metrics.npz")
reconstructions = stacking_units("stacking/reconstruction/{scatteritem}.npz")
clusters = stacking_units("stacking/clusters.json")
synthetics = stacking_units("stacking/synthetic/{scatteritem}.npy")
stacked = stacking_units("stacking/outputs/stacked.fit")
stacking_plots = stacking_units("stacking/outputs/plots/frames.png")

campaign.goals += stacked.targets() + stacking_plots.targets()
campaign.phases = stack["phases"]

STARS = f"{campaign.dir}/stacking/scan/{{scatteritem}}.npz"
CELLS = f"{campaign.dir}/stacking/registered/{{scatteritem}}.npz"


if stack["simulated"]:

    simulated = stacking_units("stacking/simulated/truth.json")

    rule stacking_simulate:
        output:
            simulated.target,
            stack["simulated"],
        log:
            simulated.log,
        localrule: campaign.on_hosts
        params:
            settings=stacking_settings("simulate"),
        shell:
            guard(
                "python workflow/scripts/stacking_simulate.py {params.settings:q} {output[0]}",
                validate="json",
            )


masters = stacking_units("stacking/masters.npz")
MASTERS = masters.targets() if stack["calibration"] else []

if MASTERS:

    rule stacking_masters:
        input:
            stack["calibration"],
        output:
            masters.target,
        log:
            masters.log,
        localrule: campaign.on_hosts
        params:
            settings=stacking_settings("calibration"),
        shell:
            guard("python workflow/scripts/stacking_masters.py {params.settings:q} {output}")


rule SCAN_INPUT:
    input:
        masters=MASTERS,
        frames=stacking_chunk,
    output:
        manifest=scans.target,
        stars=scans.beside(".npz"),
    log:
        scans.log,
    params:
        settings=stacking_settings("bayer", "on_bad_frame", "calibration"),
        frames=lambda w: json.dumps(stack["frames"][w.scatteritem]),
    shell:
        guard(
            "python workflow/scripts/stacking_scan_input.py {params.settings:q} {params.frames:q} "
            "{output.manifest} {output.stars} {input.masters:q}",
            validate={"manifest": "json"},
        )


# The pixel grid of the stack is chosen once: frames that come later do not move it.
rule stacking_reference:
    input:
        ancient(gather.stacking(STARS)),
    output:
        reference_grid.target,
    log:
        reference_grid.log,
    params:
        settings=lambda w: str(reference_grid.params(w)),
    shell:
        guard(
            "python workflow/scripts/stacking_reference.py {params.settings:q} {output} {input:q}",
            validate="json",
        )


rule REGISTRATION:
    input:
        masters=MASTERS,
        frames=stacking_chunk,
        stars=STARS,
        reference=REFERENCE,
    output:
        registrations.target,
    log:
        registrations.log,
    params:
        settings=stacking_settings("registration"),
    shell:
        guard(
            "python workflow/scripts/stacking_registration.py {params.settings:q} {output} "
            "{input.stars:q} {input.reference:q} {input.masters:q}",
            validate="json",
        )


rule CHANNEL_SPLIT:
    input:
        masters=MASTERS,
        frames=stacking_chunk,
        stars=STARS,
        reference=REFERENCE,
        registration=f"{campaign.dir}/{registrations.pattern}",
    output:
        frames=registered.target,
        cells=registered.beside(".npz"),
    log:
        registered.log,
    params:
        settings=stacking_settings("registration"),
    shell:
        guard(
            "python workflow/scripts/stacking_channel_split.py {params.settings:q} {output.frames} "
            "{output.cells} {input.stars:q} {input.registration:q} {input.reference:q} {input.masters:q}"
        )


rule NORMALIZATION:
    input:
        reference=REFERENCE,
        stars=gather.stacking(STARS),
        registrations=registrations.targets(),
        cells=gather.stacking(CELLS),
    output:
        normalization.target,
    log:
        normalization.log,
    params:
        settings=stacking_settings("mode"),
    shell:
        guard(
            "python workflow/scripts/stacking_normalization.py {params.settings:q} {output} {input.reference:q} "
            "--stars {input.stars:q} --registrations {input.registrations:q} --cells {input.cells:q}"
        )


rule GLOBAL_METRICS:
    input:
        normalization=normalization.target,
        cells=gather.stacking(CELLS),
    output:
        global_metrics.target,
    log:
        global_metrics.log,
    params:
        settings=stacking_settings("quality"),
    shell:
        guard(
            "python workflow/scripts/stacking_global_metrics.py {params.settings:q} {output} "
            "{input.normalization:q} {input.cells:q}"
        )


rule TILE_GRID:
    input:
        global_metrics=global_metrics.target,
        reference=REFERENCE,
    output:
        tile_grid.target,
    log:
        tile_grid.log,
    shell:
        guard(
            "python workflow/scripts/stacking_tile_grid.py {output} {input.global_metrics:q} {input.reference:q}",
            validate="json",
        )


rule LOCAL_METRICS:
    input:
        normalization=normalization.target,
        global_metrics=global_metrics.target,
        tile_grid=tile_grid.target,
        cells=gather.stacking(CELLS),
    output:
        local_metrics.target,
    log:
        local_metrics.log,
    params:
        settings=stacking_settings("weighting", "psf_exponent"),
    shell:
        guard(
            "python workflow/scripts/stacking_local_metrics.py {params.settings:q} {output} "
            "{input.normalization:q} {input.global_metrics:q} {input.tile_grid:q} {input.cells:q}"
        )


rule TILE_RECONSTRUCTION:
    input:
        normalization=normalization.target,
        tile_grid=tile_grid.target,
        local_metrics=local_metrics.target,
        frames=registered.targets(),
        cells=gather.stacking(CELLS),
    output:
        reconstructions.target,
    log:
        reconstructions.log,
    params:
        settings=stacking_settings("rejection"),
    shell:
        guard(
            "python workflow/scripts/stacking_tile_reconstruction.py {params.settings:q} {output} "
            "{wildcards.scatteritem} {input.normalization:q} {input.tile_grid:q} {input.local_metrics:q} "
            "--frames {input.frames:q} --cells {input.cells:q}"
        )


rule STATE_CLUSTERING:
    input:
        global_metrics=global_metrics.target,
        local_metrics=local_metrics.target,
        reconstructions=reconstructions.targets(),
    output:
        clusters.target,
    log:
        clusters.log,
    params:
        settings=stacking_settings("mode", "clusters"),
    shell:
        guard(
            "python workflow/scripts/stacking_state_clustering.py {params.settings:q} {output} "
            "{input.global_metrics:q} {input.local_metrics:q}",
            validate="json",
        )


rule SYNTHETIC_FRAMES:
    input:
        normalization=normalization.target,
        tile_grid=tile_grid.target,
        local_metrics=local_metrics.target,
        clusters=clusters.target,
        reconstruction=f"{campaign.dir}/{reconstructions.pattern}",
        frames=registered.targets(),
        cells=gather.stacking(CELLS),
    output:
        synthetics.target,
    log:
        synthetics.log,
    shell:
        guard(
            "python workflow/scripts/stacking_synthetic_frames.py {output} {wildcards.scatteritem} "
            "{input.normalization:q} {input.tile_grid:q} {input.local_metrics:q} {input.clusters:q} "
            "{input.reconstruction:q} --frames {input.frames:q} --cells {input.cells:q}"
        )


rule STACKING:
    input:
        reference=REFERENCE,
        normalization=normalization.target,
        global_metrics=global_metrics.target,
        tile_grid=tile_grid.target,
        local_metrics=local_metrics.target,
        clusters=clusters.target,
        stars=gather.stacking(STARS),
        registrations=registrations.targets(),
        reconstructions=reconstructions.targets(),
        synthetics=synthetics.targets(),
    output:
        stack=stacked.target,
        preview=stacked.beside(".png"),
        table=f"{campaign.dir}/stacking/outputs/frames.csv",
        validation=f"{campaign.dir}/stacking/outputs/validation.json",
    log:
        stacked.log,
    params:
        settings=stacking_settings("weighting", "psf_exponent", "rejection", "clusters", "validation"),
    shell:
        guard(
            "python workflow/scripts/stacking_stacking.py {params.settings:q} {output.stack} "
            "{input.reference:q} {input.normalization:q} {input.global_metrics:q} {input.tile_grid:q} "
            "{input.local_metrics:q} {input.clusters:q} --stars {input.stars:q} "
            "--registrations {input.registrations:q} --reconstructions {input.reconstructions:q} "
            "--synthetics {input.synthetics:q}",
            validate={"validation": "json"},
        )


# What the plots show is known before the last three phases, beside which they are drawn.
rule stacking_plots:
    input:
        reference=REFERENCE,
        normalization=normalization.target,
        global_metrics=global_metrics.target,
        tile_grid=tile_grid.target,
        local_metrics=local_metrics.target,
        stars=gather.stacking(STARS),
        registrations=registrations.targets(),
        reconstructions=reconstructions.targets(),
    output:
        [
            report(
                f"{campaign.dir}/stacking/outputs/plots/{name}.png",
                caption=f"../workflow/report/stacking_{name}.rst",
                category="Stacking",
            )
            for name in ("frames", "registration", "rejection", "sky", "tiles")
        ],
    log:
        stacking_plots.log,
    shell:
        guard(
            "python workflow/scripts/stacking_plots.py {output[0]} {input.reference:q} {input.normalization:q} "
            "{input.global_metrics:q} {input.tile_grid:q} {input.local_metrics:q} "
            "--stars {input.stars:q} --registrations {input.registrations:q} "
            "--reconstructions {input.reconstructions:q}"
        )


# Frames are large, and the hosts of an inventory share nothing with this machine: it stacks them itself.
if campaign.on_hosts:

    localrules:
        SCAN_INPUT,
        stacking_reference,
        REGISTRATION,
        CHANNEL_SPLIT,
        NORMALIZATION,
        GLOBAL_METRICS,
        TILE_GRID,
        LOCAL_METRICS,
        TILE_RECONSTRUCTION,
        STATE_CLUSTERING,
        SYNTHETIC_FRAMES,
        STACKING,
        stacking_plots,
