"""What SLURM's states, reasons and refusals mean: tables, real texts, and junk."""

import os
import pwd
import string
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.recovery.classifier import classify, load_rules
from ripresa.slurm import reasons, states
from ripresa.slurm.reasons import pending, refusal
from ripresa.slurm.sighting import Sighting
from ripresa.slurm.states import judge

PHASES = {"waiting", "running", "ended", "unknown"}


def seen(state: str, **more) -> Sighting:
    return Sighting("7", "ripresa.r.b", state, **more)


# --- states ---

# All that `man squeue` of SLURM 22.05 lists, and what newer versions add.
TABLE = {
    "BOOT_FAIL": ("ended", "node"),
    "CANCELLED": ("ended", "cancelled"),
    "COMPLETED": ("ended", None),
    "COMPLETING": ("running", None),
    "CONFIGURING": ("waiting", None),
    "DEADLINE": ("ended", "time_limit"),
    "EXPEDITING": ("waiting", None),
    "FAILED": ("ended", "unknown"),
    "LAUNCH_FAILED": ("unknown", None),
    "NODE_FAIL": ("ended", "node"),
    "OUT_OF_MEMORY": ("ended", "memory"),
    "PENDING": ("waiting", None),
    "POWER_UP_NODE": ("waiting", None),
    "PREEMPTED": ("ended", "preempted"),
    "RECONFIG_FAIL": ("unknown", None),
    "REQUEUED": ("waiting", None),
    "REQUEUE_FED": ("waiting", None),
    "REQUEUE_HOLD": ("waiting", None),
    "RESIZING": ("running", None),
    "RESV_DEL_HOLD": ("waiting", None),
    "REVOKED": ("unknown", None),
    "RUNNING": ("running", None),
    "SIGNALING": ("running", None),
    "SPECIAL_EXIT": ("waiting", None),
    "STAGE_OUT": ("running", None),
    "STOPPED": ("running", None),
    "SUSPENDED": ("running", None),
    "TIMEOUT": ("ended", "time_limit"),
}


@pytest.mark.parametrize(("state", "expected"), TABLE.items())
def test_every_state_has_one_meaning(state: str, expected: tuple[str, str | None]) -> None:
    verdict = judge(seen(state))
    assert (verdict.phase, verdict.failure_class) == expected
    assert state in verdict.evidence
    assert judge(seen(state.lower())) == judge(seen(f"{state}+")) == verdict


def test_the_table_holds_nothing_else() -> None:
    assert set(states.STATES) == set(TABLE)
    assert {said.phase for said in states.STATES.values()} == PHASES
    assert {said.failure_class for said in states.STATES.values()} - {None} <= set(load_rules().retry)


@pytest.mark.parametrize(
    "state", ["", " ", "UNDELIVERED", "?", "COMPLETE", "C+", "+", "RUNNING?", "12", "None"]
)
def test_what_nobody_has_heard_of_is_unknown(state: str) -> None:
    verdict = judge(seen(state))
    assert (verdict.phase, verdict.failure_class) == ("unknown", None)
    assert verdict.evidence


def test_a_job_that_is_not_listed_is_unknown() -> None:
    assert judge(None) == ("unknown", None, "SLURM does not know the job")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CANCELLED by 0", ("CANCELLED", "by 0")),
        ("CANCELLED+", ("CANCELLED", "")),
        ("cancelled by 1000", ("CANCELLED", "by 1000")),
        ("State=TIMEOUT", ("TIMEOUT", "")),
        ("OUT_OF_ME+", ("OUT_OF_MEMORY", "")),  # ten columns of sacct
        ("RESV_DEL_+", ("RESV_DEL_HOLD", "")),
        ("REQUEUE_H+", ("REQUEUE_HOLD", "")),
        ("REQUEUE_+", ("REQUEUE_", "")),  # could be two
        ("COMPLET+", ("COMPLET", "")),
        ("  RUNNING\n", ("RUNNING", "")),
        ("", ("", "")),
    ],
)
def test_states_as_slurm_writes_them(text: str, expected: tuple[str, str]) -> None:
    assert states.parse(text) == expected


def test_who_cancelled_is_told() -> None:
    uid, name = os.getuid(), pwd.getpwuid(os.getuid()).pw_name
    assert (
        f"CANCELLED by {name} (uid {uid}, yourself)" in judge(seen("CANCELLED", detail=f"by {uid}")).evidence
    )
    other = next(user for user in pwd.getpwall() if user.pw_uid != uid)
    verdict = judge(seen(f"CANCELLED by {other.pw_uid}"))
    assert verdict == ("ended", "cancelled", f"SLURM state CANCELLED by {other.pw_name} (uid {other.pw_uid})")
    assert "by somebody (uid 4000000001)" in judge(seen("CANCELLED", detail="by 4000000001")).evidence
    assert judge(seen("CANCELLED", detail="by ²")).evidence == "SLURM state CANCELLED"


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"])
@pytest.mark.parametrize("step", ["OUT_OF_MEMORY", "out_of_me+"])
def test_one_step_out_of_memory_is_enough(state: str, step: str) -> None:
    sighting = seen(state, exit_code=4, steps=(("batch", "FAILED"), ("0", step)))
    assert judge(sighting)[:2] == ("ended", "memory")
    assert "OUT_OF_MEMORY" in judge(sighting).evidence
    assert states.cause(sighting) == "OUT_OF_MEMORY"


@pytest.mark.parametrize(
    ("state", "expected"), [("NODE_FAIL", "node"), ("PREEMPTED", "preempted"), ("COMPLETED", None)]
)
def test_what_befell_a_job_from_outside_stays_the_cause(state: str, expected: str | None) -> None:
    sighting = seen(state, exit_code=0, steps=(("0", "OUT_OF_MEMORY"),))
    assert judge(sighting).failure_class == expected
    assert "step 0 OUT_OF_MEMORY" in judge(sighting).evidence


def test_a_step_out_of_memory_does_not_end_a_job() -> None:
    assert judge(seen("RUNNING", steps=(("0", "OUT_OF_MEMORY"),)))[:2] == ("running", None)


@pytest.mark.parametrize(
    ("ending", "expected", "evidence"),
    [
        ({"exit_code": 3}, "unknown", "SLURM state FAILED, exit code 3"),
        ({"exit_code": 127}, "environment", "SLURM state FAILED, exit code 127"),
        ({"exit_code": 0, "signal": 9}, "memory", "SLURM state FAILED, signal 9"),
        (
            {"exit_code": 0, "signal": 53},
            "file_system",
            "SLURM state FAILED, exit 0:53, its log could not be opened",
        ),
        ({}, "unknown", "SLURM state FAILED"),
    ],
)
def test_failed_is_judged_by_its_exit(ending: dict, expected: str, evidence: str) -> None:
    assert judge(seen("FAILED", nodes="n1", **ending)) == ("ended", expected, evidence)


def test_completed_with_a_bad_exit_is_no_completion() -> None:
    assert judge(seen("COMPLETED", exit_code=1))[:2] == ("ended", "unknown")
    assert judge(seen("COMPLETED", exit_code=0, signal=0))[:2] == ("ended", None)


def test_what_a_refused_sbatch_leaves_behind_is_a_configuration_error() -> None:
    """SLURM keeps a record of some jobs that it refused, under the name that was asked for."""
    squeue = seen("FAILED", reason="BadConstraints", submitted=5.0, started=5.0, ended=5.0)
    sacct = seen("FAILED", exit_code=1, signal=0, submitted=5.0, started=5.0, ended=5.0)
    for refused in (squeue, sacct):
        assert judge(refused)[:2] == ("ended", "configuration")
    assert "BadConstraints" in judge(squeue).evidence
    # sacct shows the reason for which a job once was pending, whatever became of it.
    assert judge(seen("FAILED", exit_code=1, nodes="n1", reason="BadConstraints")).failure_class == "unknown"
    assert (
        judge(seen("FAILED", exit_code=1, submitted=5.0, started=6.0, ended=6.0)).failure_class == "unknown"
    )


JUNK = st.one_of(st.text(max_size=20), st.text(alphabet=string.ascii_uppercase + "_+ ", max_size=12))
STATE = st.one_of(JUNK, st.builds(lambda *words: " ".join(words), st.sampled_from(sorted(TABLE)), JUNK))


@settings(max_examples=300, deadline=None)
@given(
    state=STATE,
    detail=JUNK,
    reason=JUNK,
    code=st.none() | st.integers(-300, 300),
    signal=st.none() | st.integers(-300, 300),
    steps=st.lists(st.tuples(JUNK, STATE), max_size=3),
)
def test_junk_is_never_success(state, detail, reason, code, signal, steps) -> None:
    verdict = judge(
        seen(state, detail=detail, reason=reason, exit_code=code, signal=signal, steps=tuple(steps))
    )
    name = states.parse(state)[0]
    assert verdict.phase in PHASES
    assert verdict.evidence
    if name not in TABLE:
        assert verdict.phase == "unknown"
    if verdict.phase == "ended" and verdict.failure_class is None:
        assert name == "COMPLETED" and not code and not signal
    assert (verdict.failure_class is None) or verdict.phase == "ended"


# --- the classifier uses the same table ---


@pytest.mark.parametrize("state", sorted(TABLE))
@pytest.mark.parametrize("written", ["{}", "{} by 0", "{}+", "State={}"])
def test_the_classifier_agrees(state: str, written: str) -> None:
    said = states.STATES[state]
    verdict = classify("working\n", slurm_state=written.format(state).lower())
    assert verdict.failure_class == (said.failure_class or "unknown")
    assert verdict.rule == (f"slurm-state-{state.lower()}" if said.strength else "nothing-known")


def test_states_are_read_only_where_slurm_speaks() -> None:
    script = "import sys; from ripresa.recovery import guard; print([m for m in sys.modules if 'slurm' in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- reasons ---


def words(text: str) -> list[str]:
    return text.split()


# Every reason of `man squeue` and of libslurm 22.05 but for the limits, which are built up below.
PASSING = words("""
    None Priority Dependency Resources PartitionDown PartitionInactive BeginTime Licenses Reservation NodeDown
    SchedDefer AssociationJobLimit AssociationResourceLimit ReqNodeNotAvail FrontEndDown SystemFailure
    JobLaunchFailure NonZeroExitCode TimeLimit InactiveLimit QOSUsageThreshold QOSJobLimit QOSResourceLimit
    BlockMaxError BlockFreeAction Cleaning Prolog JobArrayTaskLimit BurstBufferResources BurstBufferStageIn
    BurstBufferOperation PowerNotAvail PowerReserved DeadLine AccountingPolicy FedJobLock OutOfMemory
    WaitingForScheduling QOSMaxJobsPerUserLimit QOSMaxSubmitJobPerUserLimit AssocMaxJobsLimit
    AssocMaxSubmitJobLimit MaxJobsPerAccount MaxSubmitJobsPerAccount""")
HELD = words("JobHeldAdmin JobHeldUser JobHoldMaxRequeue ReservationDeleted")
NEVER = words("""
    PartitionNodeLimit PartitionTimeLimit AssociationTimeLimit BadConstraints InvalidAccount InvalidQOS
    QOSTimeLimit QOSNotAllowed AccountNotAllowed DependencyNeverSatisfied PartitionConfig MaxMemPerLimit
    QOSMinCpuNotSatisfied QOSMaxWallDurationPerJobLimit AssocMaxWallDurationPerJobLimit""")

for resource in words("Cpu Node Mem Memory GRES License BB Billing Energy Unknown"):
    for limit in ("", "Minutes", "RunMinutes"):
        PASSING += [f"AssocGrp{resource}{limit}", f"QOSGrp{resource}{limit}", f"QOSGrp{resource}{limit}Limit"]
    PASSING += [f"QOSMax{resource}PerUser", f"QOSMax{resource}PerUserLimit", f"Max{resource}PerAccount"]
    for owner in ("QOS", "Assoc"):
        NEVER += [
            f"{owner}Max{resource}PerJob",
            f"{owner}Max{resource}PerJobLimit",
            f"{owner}Max{resource}PerNode",
        ]
        NEVER += [f"{owner}Max{resource}MinutesPerJob", f"{owner}Max{resource}MinutesPerJobLimit"]
    NEVER.append(f"QOSMin{resource}")
PASSING += [
    f"{owner}{limit}"
    for owner in ("QOSGrp", "AssocGrp")
    for limit in ("JobsLimit", "SubmitJobsLimit", "WallLimit")
]

# Longer ones, as the controller writes them.
PASSING += [
    "ReqNodeNotAvail, UnavailableNodes:n[1-2]",
    "ReqNodeNotAvail, Reserved for maintenance",
    "ReqNodeNotAvail, May be reserved for other job",
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
]
HELD += ["launch failed requeued held", "job requeued in held state", "job requeued in special exit state"]
NEVER += [
    "Job's account not permitted to use this partition (closed allows proj not small)",
    "Job's QOS not permitted to use this partition (one denies tiny including tiny)",
]
REASONS = {**dict.fromkeys(PASSING, "passes"), **dict.fromkeys(HELD, "held"), **dict.fromkeys(NEVER, "never")}


@pytest.mark.parametrize("kind", ["passes", "held", "never"])
def test_every_reason_has_one_prospect(kind: str) -> None:
    wrong = {}
    for reason in (reason for reason, expected in REASONS.items() if expected == kind):
        for written in (reason, f"({reason})", reason.replace(" ", "_"), reason.lower()):
            prospect = pending(written)
            quoted = written[1:-1] if written.startswith("(") else written
            expected = (kind, "configuration" if kind == "never" else None)
            if prospect[:2] != expected or not prospect.text.startswith(f"{quoted}: "):
                wrong[written] = prospect
    assert wrong == {}


def test_what_never_ends_counts_within_seconds() -> None:
    """Soon enough that nobody waits long, and not before a starting controller has made up its mind."""
    assert {pending(reason).patience for reason in NEVER} <= {5, 10}
    assert {pending(reason).patience for reason in (*PASSING, *HELD)} == {0}


@pytest.mark.parametrize("entry", reasons._tables()["pending"], ids=lambda entry: entry["match"][0])
def test_every_entry_of_the_table_is_needed(entry: dict) -> None:
    assert any(reasons._entry(reason) is entry for reason in REASONS)


@settings(max_examples=200, deadline=None)
@given(reason=st.text(max_size=40))
def test_a_reason_nobody_knows_waits(reason: str) -> None:
    prospect = pending(f"zzz{reason}")
    assert prospect[:2] == ("passes", None)
    assert prospect.text


# --- refusals ---

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
REFUSALS = [
    (
        f"sbatch: error: invalid partition specified: x\n{FAILED}Invalid partition name specified",
        "configuration",
    ),
    (f"{FAILED}Invalid account or account/partition combination specified", "configuration"),
    (f"{FAILED}Invalid qos specification", "configuration"),
    (
        f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration "
        "is not available",
        "configuration",
    ),
    ("sbatch: error: Invalid generic resource (gres) specification", "configuration"),
    (f"{FAILED}Invalid feature specification", "configuration"),
    ("sbatch: error: Invalid --time specification", "configuration"),
    (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)", "configuration"),
    (f"{FAILED}More processors requested than permitted", "configuration"),
    (f"{FAILED}Node count specification invalid", "configuration"),
    (f"{FAILED}Memory required by task is not available", "configuration"),
    (f"{FAILED}Requested nodes not in this partition", "configuration"),
    (f"{FAILED}Invalid node name specified", "configuration"),
    (f"{FAILED}Invalid license specification", "configuration"),
    (f"{FAILED}Requested reservation is invalid", "configuration"),
    (f"{FAILED}Job dependency problem", "configuration"),
    (f"{FAILED}Invalid job array specification", "configuration"),
    (
        "Invalid time specification (pos=8): soonish\nsbatch: error: Invalid --begin specification",
        "configuration",
    ),
    ("sbatch: unrecognized option '--qqq'\nTry \"sbatch --help\" for more information", "configuration"),
    ("sbatch: error: Unable to open file /gone.sh", "configuration"),
    (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", "configuration"),
    (f"sbatch: error: QOSMaxCpuPerJobLimit\n{POLICY}", "configuration"),
    (f"sbatch: error: QOSGrpCpuLimit\n{POLICY}", "configuration"),  # the one request exceeds the whole
    (f"{FAILED}User's group not permitted to use this partition", "permission"),
    (f"{FAILED}Access/permission denied", "permission"),
    ("sbatch: error: please name a project", "unknown"),
    ("", "unknown"),
]
LATERS = [
    f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}",
    f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}",
    f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY}",
    POLICY,
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "sbatch: error: Slurm job queue full, sleeping and retrying",
    f"sbatch: error: Slurm job queue full, sleeping and retrying\n{FAILED}Resource temporarily unavailable",
    f"{FAILED}Required partition not available (inactive or drain)",
    f"{FAILED}Unable to create job record, try again",
    f"{FAILED}System submissions disabled",
]
OUTAGES = [
    f"{FAILED}Unable to contact slurm controller (connect failure)",
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "scancel: error: Kill job error on job id 5: Unable to contact slurm controller (connect failure)",
    f"{FAILED}Socket timed out on send/recv operation",
    f"{FAILED}Zero Bytes were transmitted or received",
    f"{FAILED}Slurm backup controller in standby mode",
    f"{FAILED}I/O error writing script/environment to file",
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to "
    "host:127.0.0.1:6819: Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused",
    "sbatch: error: If munged is up, restart with --num-threads=10\n"
    'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or '
    "directory (Did you start munged?)\n"
    "sbatch: error: slurm_send_node_msg: auth_g_create: REQUEST_SUBMIT_BATCH_JOB has authentication error\n"
    f"{FAILED}Protocol authentication error",
    "sbatch: fatal: Could not establish a configuration source",
]


@pytest.mark.parametrize(("stderr", "failure_class"), REFUSALS)
def test_a_wrong_request_is_refused(stderr: str, failure_class: str) -> None:
    assert refusal(stderr) == ("refused", failure_class)


@pytest.mark.parametrize("stderr", LATERS)
def test_a_full_queue_or_a_closed_partition_is_no_failure(stderr: str) -> None:
    assert refusal(stderr) == ("later", None)


@pytest.mark.parametrize("stderr", OUTAGES)
def test_silence_of_slurm_is_an_outage(stderr: str) -> None:
    assert refusal(stderr) == ("outage", None)
    assert refusal(stderr.upper()) == ("outage", None)


@settings(max_examples=200, deadline=None)
@given(stderr=st.text(max_size=80))
def test_any_text_is_told(stderr: str) -> None:
    kind, failure_class = refusal(stderr)
    assert kind in {"refused", "later", "outage"}
    assert (failure_class is not None) == (kind == "refused")
