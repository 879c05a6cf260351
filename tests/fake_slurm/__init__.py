"""A small SLURM for tests: jobs are files in one folder and run as processes of this machine.

Put `bin` first on the PATH and name an empty folder in FAKE_SLURM (`handle.FakeSlurm` does both). What the
commands write is what those of SLURM 22.05 write; `recorded.txt` checks that. Files in the folder say how it
behaves:

    settings.json        nodes, partitions, accounting, limits; see store.DEFAULTS
    faults/COMMAND.json  how a command fails: {"calls": 3, "seconds": 0, "after": false,
                         "exit": 1, "stderr": "..."}; without "calls" until removed, with "after" once its
                         work is done, without "exit" it is merely slow
    fates.json           what becomes of jobs to come, by name: [["*.x", {"reason": "PartitionTimeLimit"}]]
    jobs/KEY.json        every job, whatever became of it; active/KEY for those that have not ended
    calls.jsonl          every call of a command
"""
