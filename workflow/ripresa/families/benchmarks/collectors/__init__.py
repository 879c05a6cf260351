"""What the host did meanwhile: a process of its own that samples /proc and /sys beside a measurement.

It runs on any Linux host with Python 3.9 and nothing else, so it imports the standard library alone, and of
that as little as it can. `source.Source` is one thing the kernel tells about, `sampler` puts all of them
together, and `sampling`, beside this package, starts it.
"""
