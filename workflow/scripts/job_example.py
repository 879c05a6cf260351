"""An example of a job: heat in a square plate, step by step, with checkpoints.

It does what any long job should: write a checkpoint under another name and rename it, write one and end
when SIGUSR1 says that the time is nearly over, go on from one, and say how far it is. The result is the same
to the last bit however often it was interrupted.
"""

import argparse
import os
import signal
import time

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--size", type=int, required=True, help="points along a side of the plate")
parser.add_argument("--rate", type=float, required=True, help="diffusion number, at most 0.25")
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--every", type=int, required=True, help="steps between two checkpoints")
parser.add_argument("--pause", type=float, default=0.0, help="s to rest after each step")
parser.add_argument("--checkpoints", required=True, help="folder for checkpoints")
parser.add_argument("--resume", default="", help="the checkpoint to go on from")
parser.add_argument("--output", required=True, help="folder for the result")
args = parser.parse_args()

warned = False


def warn(number, frame):
    global warned  # noqa: PLW0603 - all that a handler can do
    warned = True


def save(step, plate):
    path = f"{args.checkpoints}/step{step:08}.npz"
    with open(f"{path}.tmp", "wb") as file:
        np.savez(file, step=step, plate=plate)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.tmp", path)


signal.signal(signal.SIGUSR1, warn)
if args.resume:
    with np.load(args.resume) as saved:
        step, plate = int(saved["step"]), saved["plate"]
else:
    step, plate = 0, np.zeros((args.size, args.size))
    plate[0] = 1.0  # one edge is hot

began, first = time.monotonic(), step
while step < args.steps:
    inner = plate[1:-1, 1:-1]
    around = plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]
    change = args.rate * (around - 4.0 * inner)
    plate[1:-1, 1:-1] = inner + change
    step += 1
    time.sleep(args.pause)
    if step % args.every == 0 or step == args.steps or warned:
        save(step, plate)
        speed = (step - first) / (time.monotonic() - began)
        print(f"step {step} residual {np.abs(change).max():.6e} speed {speed:.1f} steps/s", flush=True)
    if warned and step < args.steps:
        print(f"told to end, saved step {step}", flush=True)
        raise SystemExit(0)

np.save(f"{args.output}/plate.npy", plate)
print(f"finished after {step} steps", flush=True)
