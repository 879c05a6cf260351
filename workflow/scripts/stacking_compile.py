"""Compile the kernels of stacking, once for a machine, by stacking a few tiny frames of each kind.

What runs later starts at once then. Without this, kernels are compiled when they are called first.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def stack(directory: Path, bayer: str | None, mode: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Stack simulated frames in a directory of their own."""
    (directory / "config").mkdir(parents=True)
    for name in ("Snakefile", "rules", "workflow", "profiles"):
        (directory / name).symlink_to(ROOT / name)
    simulate = {"frames": 12, "width": 256, "height": 192, "stars": 60, "bayer": bayer}
    files = {
        "config": {"run_id": "compile", "families": ["stacking"]},
        "stacking": {"simulate": simulate, "mode": {"allow_few": True, **mode}, "clusters": {"minimum": 3}},
    }
    for name, content in files.items():
        (directory / "config" / f"{name}.yaml").write_text(json.dumps(content))
    call = [sys.executable, "-m", "snakemake"]
    return subprocess.run(call, cwd=directory, capture_output=True, text=True, check=False)


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        for bayer, mode in ((None, {"full_from": 2}), ("GRBG", {})):
            done = stack(Path(name) / (bayer or "mono"), bayer, mode)
            if done.returncode:
                # Only time is lost: who calls a kernel compiles it.
                print(
                    f"warning: the kernels were not compiled in advance: {done.stderr[-2000:]}",
                    file=sys.stderr,
                )


if __name__ == "__main__":
    main()
