"""The same commands against the real SLURM and the fake, and what they say with ids and times taken out.

    python tests/fake_slurm/scenario.py > tests/fake_slurm/recorded.txt

records the real one; a cluster just started, and a FirstJobId like no other figure, keep it clean.
"""

import os
import pwd
import re
import subprocess
import sys
import tempfile
import time

# "name = sbatch ..." keeps an id, {name} puts it in; "until: COMMAND = TEXT" waits for a line of output.
STEPS = r"""
first = sbatch --parsable -J first --comment 'a comment' -o /dev/null --wrap 'exit 0'
bad = sbatch --parsable -J bad -o /dev/null --wrap 'exit 3'
lacks = sbatch --parsable -J lacks -o /dev/null --wrap nosuchcommand
killed = sbatch --parsable -J killed -o /dev/null --wrap 'kill -9 $$'
nolog = sbatch --parsable -J nolog -o /nonexistent/folder/log --wrap 'exit 0'
array = sbatch --parsable -J array -a 0-4%2 --comment 'ripresa r b' -o %x.%a.log --wrap 'echo $SLURM_ARRAY_TASK_ID; until [ -e go ]; do sleep 0.1; done; exit $((SLURM_ARRAY_TASK_ID % 2))'
spread = sbatch --parsable -J spread -H -a 1,3,5-7 -o /dev/null --wrap 'exit 0'
held = sbatch --parsable -J held -H -o /dev/null --wrap 'exit 0'
later = sbatch --parsable -J later -b now+1hour -o /dev/null --wrap 'exit 0'
never = sbatch --parsable -J never -d afterok:{bad} -o /dev/null --wrap 'exit 0'
long = sbatch --parsable -J long -t 10 -o /dev/null --wrap 'sleep 1000'
back = sbatch --parsable -J back --requeue -o /dev/null --wrap 'sleep 1000'
until: squeue -h -o %T -j {long} = RUNNING
until: squeue -h -o %T -j {back} = RUNNING
until: squeue -h -o %r -j {never} = DependencyNeverSatisfied
until: squeue -h -r -o %r -j {array}_4 = JobArrayTaskLimit
until: squeue -h -t all -o %T -j {nolog} = FAILED
squeue -h -r --me -o '%i|%F|%K|%j|%k|%T|%t|%r|%R|%N|%B|%V|%S|%e|%l|%u|%U|%C|%D'
squeue -h -o '%i|%K|%j|%T|%r'
squeue -h -r -n array,long -O 'JobArrayID:12|,Name:.10|,State,Reason,RestartCnt:3|,exit_code:|,Comment:'
SLURM_TIME_FORMAT=%s squeue --noheader --array --states=all --user=$(id -u) '--Format=JobArrayID:|,Name:|,State:|,Reason:|,NodeList:|,RestartCnt:|,exit_code:|,SubmitTime:|,StartTime:|,EndTime:|'
squeue -h -j {long},99999999 -o %i
squeue -o '%.18i %.8j %.2t %T' -j {long}
squeue -h -t all -o '%i|%T|%t|%r|%R|%N' -n first,bad,lacks,killed,nolog
squeue -h -t PD -n held,later,long -o %i
sacct -n -P -S now-10minutes -o jobid,jobname,state,exitcode,nodelist,submit,start,end,comment --name first,bad,lacks,killed,nolog
sacct -X -P -S now-10minutes -o JobID,State,ExitCode --name first,bad
sacct -S now-10minutes -o JobID,JobName,State,ExitCode --name first,bad
sacct -X -n -P -S now-10minutes --name held,later -o jobid
scancel {long}
scontrol requeue {back}
until: squeue -h -o %T -j {back} = PENDING
until: squeue -h -t all -o %T -j {long} = CANCELLED
squeue -h -t all -o '%i|%T|%r|%R|%N' -n long,back
squeue -h -O RestartCnt:3 -j {back}
sacct -D -n -P -S now-10minutes -o jobid,state,exitcode,nodelist,start,end --name long,back
SLURM_TIME_FORMAT=%s sacct --noheader --parsable2 --duplicates --format=JobID,JobName,State,ExitCode,NodeList,Submit,Start,End --jobs={long},{back},{nolog}
sacct --array
sacct -n -S now-10minutes -o jobid,state --name long
sacct -n -S now-10minutes -o jobid,state%20 --name long
scancel {back} {held} {spread}_[3,5] {spread}_7 99999999
touch go
until: squeue -h -r -t all -o %T -j {array}_4 = COMPLETED
until: sacct -X -n -P -o state -j {array} | grep -c -E '^(COMPLETED|FAILED)$' = 5
until: sacct -X -n -P -o state -j {back} | grep -c CANCELLED = 1
squeue -h -r -t all -o '%i|%T|%r|%R' -n array,back,held,spread
sacct -D -n -P -S now-10minutes -o jobid,state,exitcode,comment --name array,back,held
cat array.0.log array.3.log
scontrol requeue 99999999
scontrol show job 99999999
scontrol show partition nowhere
scontrol bogus
squeue -h -j 99999999
squeue -h -j x
squeue --bogus
sacct -n -j 99999999
sacct -o nosuchfield
sacct --bogus
scancel 99999999
scancel x
scancel
sbatch -p nowhere --wrap true
sbatch -a 5-1 --wrap true
sbatch -t soon --wrap true
sbatch --signal FOO@5 --wrap true
sbatch -x nosuchnode --wrap true
sbatch --bogus --wrap true
sbatch /nonexistent/script
echo true | sbatch
sbatch </dev/null
scancel -n never,later
scancel -n never
scancel {later} {spread}
until: squeue -h -t all -o %T -j {later} = CANCELLED
squeue -h -n spread,never,later -o %i
"""  # noqa: E501


def play(environment: dict[str, str], patience: float = 60.0) -> str:
    """Run the scenario with the commands on the PATH and return the transcript."""
    ids: dict[str, str] = {}
    transcript = ""
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS.strip().splitlines():
            name, gives, command = step.partition(" = sbatch ")
            command = f"sbatch {command}" if gives else step
            waits = step.startswith("until: ")
            expected = ""
            if waits:
                command, _, expected = step.removeprefix("until: ").partition(" = ")
            for known, number in ids.items():
                command = command.replace(f"{{{known}}}", number)
            end = time.monotonic() + patience
            while True:
                done = subprocess.run(
                    command,
                    shell=True,
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if not waits or done.stdout.strip() == expected:
                    break
                if time.monotonic() > end:
                    raise TimeoutError(f"{step}: {done.stdout}{done.stderr}")
                time.sleep(0.1)
            if gives:
                ids[name] = done.stdout.strip()
            elif not waits:
                output = sorted(done.stdout.splitlines()) + done.stderr.splitlines()
                transcript += f"$ {step}\n" + "".join(f"{_plain(line, ids)}\n" for line in output)
                transcript += f"[{done.returncode}]\n" if done.returncode else ""
    return transcript


def _plain(line: str, ids: dict[str, str]) -> str:
    """A line without what differs from cluster to cluster."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d|(?<=\|)1\d{9}(?=\||$)", "TIME", line)
    user = pwd.getpwuid(os.getuid())
    line = line.replace(f"|{user.pw_name}|{user.pw_uid}|", "|USER|UID|").replace("365-00:00:00", "UNLIMITED")
    line = re.sub(rf"\bby {user.pw_uid}\b", "by UID", line)
    line = re.sub(r"(?<=\|)(?:st|n)\d+(?=\||$)", "NODE", line)
    for name, number in ids.items():
        line = re.sub(rf"(?<!\d){number}(?!\d)", f"<{name}>", line)
    return line


if __name__ == "__main__":
    sys.stdout.write(play(dict(os.environ)))
