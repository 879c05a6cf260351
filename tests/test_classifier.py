"""The failure classifier: what it decides, on what line, how fast, and how a user's rules win."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ripresa.recovery.classifier import classify, load_rules

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT / ".." / "shared" / "data" / "failures" / "dev.jsonl"

NO = False
YES = True

# (class, would one run it again?, log). Classes that a careful person could also give follow after "/".
CASES: list[tuple[str, bool, str]] = [
    # network
    ("network", YES, "curl: (6) Could not resolve host: data.example.org"),
    ("network", YES, "ssh: connect to host node17 port 22: Connection timed out"),
    ("network", YES, "wget: unable to resolve host address 'mirror.example.org'"),
    (
        "network",
        YES,
        "rsync: connection unexpectedly closed (1523 bytes received so far) [receiver]\n"
        "rsync error: error in rsync protocol data stream (code 12) at io.c(232) [receiver=3.2.7]",
    ),
    (
        "network",
        YES,
        "fatal: unable to access 'https://git.example.org/a/b.git/': Failed to connect to git.example.org "
        "port 443 after 130 ms: Couldn't connect to server",
    ),
    (
        "network",
        YES,
        "error: RPC failed; curl 92 HTTP/2 stream 5 was not closed cleanly: CANCEL (err 8)\n"
        "error: 2903 bytes of body are still expected\nfetch-pack: unexpected disconnect while reading sideband packet\n"
        "fatal: early EOF\nfatal: fetch-pack: invalid index-pack output",
    ),
    (
        "network",
        YES,
        "npm ERR! code ECONNRESET\nnpm ERR! network aborted\n"
        "npm ERR! network This is a problem related to network connectivity.",
    ),
    (
        "network",
        YES,
        'Get "https://registry.example.org/v2/": net/http: request canceled while waiting for connection '
        "(Client.Timeout exceeded while awaiting headers)",
    ),
    (
        "network",
        YES,
        "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError("
        "'<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new connection: [Errno "
        "-3] Temporary failure in name resolution')': /simple/numpy/\n"
        "ERROR: Could not find a version that satisfies the requirement numpy (from versions: none)\n"
        "ERROR: No matching distribution found for numpy",
    ),
    (
        "network",
        YES,
        'Traceback (most recent call last):\n  File "/usr/lib/python3/urllib3/connection.py", line 174, '
        "in _new_conn\n    conn = connection.create_connection(\nsocket.gaierror: [Errno -2] Name or service not known\n\n"
        "During handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
        '  File "get.py", line 3, in <module>\n    requests.get(url)\nrequests.exceptions.ConnectionError: '
        "HTTPSConnectionPool(host='a.org', port=443): Max retries exceeded with url: /x",
    ),
    (
        "network",
        YES,
        "java.net.SocketTimeoutException: Read timed out\n\tat java.base/java.net.SocketInputStream.read0()",
    ),
    (
        "network",
        YES,
        "E: Failed to fetch http://deb.example.org/pool/x.deb  Hash Sum mismatch\n"
        "E: Some index files failed to download. They have been ignored, or old ones used instead.",
    ),
    # service
    (
        "service",
        YES,
        "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: https://a.org/api",
    ),
    (
        "service",
        YES,
        "botocore.exceptions.ClientError: An error occurred (SlowDown) when calling the PutObject operation "
        "(reached max retries: 4): Please reduce your request rate.",
    ),
    ("service", YES, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"),
    ("service", YES, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
    (
        "service",
        YES,
        'psycopg2.OperationalError: connection to server at "db", port 5432 failed: FATAL:  sorry, too many '
        "clients already",
    ),
    ("service", YES, "sqlite3.OperationalError: database is locked"),
    (
        "service",
        YES,
        "License checkout failed.\nLicense Manager Error -4\nMaximum number of users for MATLAB reached.\n"
        "Try again later.",
    ),
    ("service", YES, "Error response from daemon: toomanyrequests: You have reached your pull rate limit."),
    (
        "service",
        YES,
        "ERROR 1213 (40001): Deadlock found when trying to get lock; try restarting transaction",
    ),
    (
        "service",
        YES,
        "fatal: unable to access 'https://git.example.org/': The requested URL returned error: 502",
    ),
    (
        "service",
        YES,
        "grpc._channel._InactiveRpcError: <_InactiveRpcError of RPC that terminated with:\n"
        '\tstatus = StatusCode.UNAVAILABLE\n\tdetails = "upstream connect error or disconnect/reset before headers"',
    ),
    # memory
    (
        "memory",
        YES,
        "slurmstepd: error: Detected 1 oom_kill event in StepId=812.batch. Some of the step tasks have been "
        "OOM Killed.\nsrun: error: node3: task 0: Out Of Memory",
    ),
    (
        "memory",
        YES,
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
        "Aborted (core dumped)",
    ),
    (
        "memory",
        YES,
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 29.8 GiB for an array with shape "
        "(200000, 20000) and data type float64",
    ),
    ("memory", YES, 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space'),
    (
        "memory",
        YES,
        "<--- Last few GCs --->\nFATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of "
        "memory\nAborted (core dumped)",
    ),
    ("memory", YES, "Error: cannot allocate vector of size 3.7 Gb\nExecution halted"),
    ("memory", YES, "[ 9120.1] Memory cgroup out of memory: Killed process 4711 (python) total-vm:9000000kB"),
    (
        "memory",
        YES,
        "g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n"
        "make[2]: *** [CMakeFiles/a.dir/b.o] Error 1",
    ),
    ("memory", YES, "=>> PBS: job killed: mem 33554560kb exceeded limit 33554432kb"),
    (
        "memory",
        YES,
        "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit.\nExited with exit code 130.",
    ),
    ("memory", YES, "Reason: OOMKilled\nExit Code: 137"),
    (
        "memory",
        YES,
        "/var/spool/slurmd/job812/slurm_script: line 12: 30112 Killed                  ./simulate input.nml",
    ),
    ("memory", YES, "forrtl: severe (41): insufficient virtual memory"),
    (
        "memory",
        YES,
        "concurrent.futures.process.BrokenProcessPool: A process in the process pool was terminated abruptly "
        "while the future was running or pending.",
    ),
    # GPU memory
    (
        "gpu_memory",
        YES,
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total "
        "capacity of 23.65 GiB of which 1.2 GiB is free.",
    ),
    (
        "gpu_memory",
        YES,
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: OOM when allocating tensor with "
        "shape[64,512,56,56] on /job:localhost/device:GPU:0",
    ),
    (
        "gpu_memory",
        YES,
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate "
        "8589934592 bytes.",
    ),
    (
        "gpu_memory",
        YES,
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    ("gpu_memory", YES, "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 512.00 MiB."),
    (
        "gpu_memory",
        YES,
        "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 98.00 MiB.\n"
        "[rank0]:[E ProcessGroupNCCL.cpp:616] [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, "
        "OpType=ALLREDUCE) ran for 600010 milliseconds before timing out.\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: train.py FAILED",
    ),
    # GPU faults
    ("gpu_fault", YES, "NVRM: Xid (PCI:0000:3b:00): 79, pid=3071, GPU has fallen off the bus."),
    (
        "gpu_fault",
        YES,
        "RuntimeError: CUDA error: uncorrectable ECC error encountered\n"
        "CUDA kernel errors might be asynchronously reported at some other API call",
    ),
    ("gpu_fault", NO, "Failed to initialize NVML: Driver/library version mismatch"),
    ("gpu_fault", YES, "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable"),
    ("gpu_fault", YES, "RuntimeError: CUDA error: unspecified launch failure"),
    # communication
    (
        "communication",
        YES,
        "node7:102:310 [2] NCCL WARN Net : Connection closed by remote peer node9<41234>\n"
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1691, remote process exited or there was "
        "a network error, NCCL version 2.19.3\nncclRemoteError: A call failed possibly due to a network error",
    ),
    (
        "communication",
        YES,
        "[E ProcessGroupNCCL.cpp:475] [Rank 1] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=1731, OpType=ALLREDUCE, Timeout(ms)=1800000) ran for 1800210 milliseconds before timing out.",
    ),
    (
        "communication",
        YES,
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer "
        "[10.1.0.4]:29871",
    ),
    (
        "communication",
        YES,
        "An ORTE daemon has unexpectedly failed after launch and before communicating back to mpirun.",
    ),
    (
        "communication",
        YES,
        "[node4:2211] UCX  ERROR Transport retry count exceeded on mlx5_0:1/IB (synd 0x15 vend 0x81)",
    ),
    (
        "communication",
        YES,
        "Fatal error in PMPI_Bcast: Other MPI error, error stack:\nPMPI_Bcast(454): MPI_Bcast failed\n"
        "MPIDI_CH3I_Progress(176): sock connection closed by peer",
    ),
    # node
    (
        "node",
        YES,
        "slurmstepd: error: *** JOB 4411 ON n12 CANCELLED AT 2024-05-01T10:00:00 DUE TO NODE FAILURE, SEE "
        "SLURMCTLD LOG FOR DETAILS ***",
    ),
    (
        "node",
        YES,
        "The self-hosted runner: big-3 lost communication with the server. Verify the machine is running.",
    ),
    ("node", YES, "Kernel panic - not syncing: Fatal machine check on current CPU"),
    ("node", YES, "ERROR: Job failed (system failure): prepare environment: connection lost"),
    # preempted
    (
        "preempted",
        YES,
        "slurmstepd: error: *** JOB 99 ON n1 CANCELLED AT 2024-05-01T10:00:00 DUE TO PREEMPTION ***",
    ),
    ("preempted", YES, "Task failed: the VM was preempted before the command finished."),
    ("preempted", YES, "Job 771 was preempted by job 802; requeued"),
    ("preempted", YES, "Host EC2 (instance i-0abc) terminated."),
    # time limits
    (
        "time_limit",
        YES,
        "slurmstepd: error: *** JOB 17 ON n2 CANCELLED AT 2024-05-01T10:00:00 DUE TO TIME LIMIT ***",
    ),
    ("time_limit", YES, "=>> PBS: job killed: walltime 3634 exceeded limit 3600"),
    (
        "time_limit",
        YES,
        "TERM_RUNLIMIT: job killed after reaching LSF run time limit.\nExited with exit code 140.",
    ),
    (
        "time_limit",
        YES,
        "##[error]The job running on runner Hosted 4 has exceeded the maximum execution time of 360 minutes.",
    ),
    ("time_limit", YES, "Error: The action 'Run tests' has timed out after 30 minutes."),
    (
        "time_limit",
        YES,
        "Process `ALIGN (s1)` terminated for an unknown reason -- Process exceeded running time limit (1h)",
    ),
    (
        "time_limit",
        YES,
        "Epoch 12/90 loss 1.93\nslurmstepd: error: *** STEP 17.0 ON n2 CANCELLED AT 2024-05-01T10:00:00 DUE "
        "TO TIME LIMIT ***\nsrun: Job step aborted: Waiting up to 32 seconds for job step to finish.\n"
        "slurmstepd: error: *** JOB 17 ON n2 CANCELLED AT 2024-05-01T10:00:00 DUE TO TIME LIMIT ***\nTerminated",
    ),
    # hang
    ("hang", YES, "INFO: task kworker/3:1:221 blocked for more than 120 seconds."),
    (
        "hang",
        YES,
        "No output has been received in the last 10m0s, this potentially indicates a stalled build.",
    ),
    ("hang", YES, "watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [python:3912]"),
    ("hang", YES, "Task attempt_2014_m_000004_0 failed to report status for 600 seconds. Killing!"),
    # disk
    ("disk", NO, "OSError: [Errno 28] No space left on device"),
    ("disk", NO, "cp: error writing '/scratch/u/a.bam': Disk quota exceeded"),
    ("disk", NO, 'samtools sort: failed to write to "tmp.0003.bam": No space left on device'),
    # file system
    ("file_system", YES, "cat: /nfs/data/a.fits: Stale file handle"),
    ("file_system", YES, "OSError: [Errno 5] Input/output error: '/lustre/u/ckpt.pt'"),
    ("file_system", YES, "touch: cannot touch 'x': Read-only file system"),
    ("file_system", YES, "ls: cannot access '/mnt/gluster': Transport endpoint is not connected"),
    ("file_system", YES, "blk_update_request: critical medium error, dev sdb, sector 1951"),
    # configuration
    (
        "configuration",
        NO,
        "usage: train.py [-h] --data DATA\ntrain.py: error: the following arguments are required: --data",
    ),
    (
        "configuration",
        NO,
        "sbatch: error: invalid partition specified: gpuu\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified",
    ),
    (
        "configuration",
        NO,
        "srun: error: Unable to allocate resources: Requested node configuration is not available",
    ),
    (
        "configuration",
        NO,
        'yaml.scanner.ScannerError: mapping values are not allowed here\n  in "config.yaml", line 7, '
        "column 12",
    ),
    (
        "configuration",
        NO,
        "MissingInputException in rule align in file Snakefile, line 12:\nMissing input files for rule "
        "align:\n    output: a.bam\n    affected files:\n        reads/a.fq.gz",
    ),
    ("configuration", NO, "make: *** No rule to make target 'al1'.  Stop."),
    ("configuration", NO, "error: unknown option `--tiemout=30'"),
    (
        "configuration",
        NO,
        '--> FOAM FATAL IO ERROR:\nkeyword connectionTimeout is undefined in dictionary "system/x"',
    ),
    (
        "configuration",
        NO,
        "There are not enough slots available in the system to satisfy the 64\nslots that were requested "
        "by the application:",
    ),
    ("configuration", NO, "ERROR: Unknown pair style lj/cut/gpuu (src/force.cpp:279)"),
    # environment
    ("environment", NO, "ModuleNotFoundError: No module named 'connection_retry'"),
    ("environment", NO, "bash: line 3: samtools: command not found"),
    (
        "environment",
        NO,
        "./solver: error while loading shared libraries: libmpi.so.40: cannot open shared object file: No "
        "such file or directory",
    ),
    ("environment", NO, "./a.out: /lib64/libc.so.6: version `GLIBC_2.34' not found (required by ./a.out)"),
    (
        "environment",
        NO,
        'Lmod has detected the following error: The following module(s) are unknown: "gcc/99"',
    ),
    ("environment", NO, "exec /entrypoint.sh: exec format error"),
    (
        "environment",
        NO,
        "requests.exceptions.SSLError: HTTPSConnectionPool(host='a.org', port=443): Max retries exceeded "
        "with url: / (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify "
        "failed: self-signed certificate in certificate chain')))",
    ),
    ("environment", NO, "Error in library(DESeq2) : there is no package called 'DESeq2'\nExecution halted"),
    (
        "environment",
        NO,
        "Error: LinkageError occurred while loading main class Main\njava.lang.UnsupportedClassVersionError: "
        "Main has been compiled by a more recent version of the Java Runtime",
    ),
    ("environment", NO, "RuntimeError: CUDA error: no kernel image is available for execution on the device"),
    ("environment", NO, "Illegal instruction (core dumped)"),
    (
        "environment",
        NO,
        "src/io.c:3:10: fatal error: hdf5.h: No such file or directory\n    3 | #include <hdf5.h>\n"
        "compilation terminated.",
    ),
    # permission
    ("permission", NO, "PermissionError: [Errno 13] Permission denied: '/data/out/results.csv'"),
    (
        "permission",
        NO,
        "git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
    ),
    (
        "permission",
        NO,
        "An error occurred (AccessDenied) when calling the GetObject operation: Access Denied",
    ),
    (
        "permission",
        NO,
        "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://a.org/api",
    ),
    ("permission", NO, "Host key verification failed.\r\nlost connection"),
    # code
    (
        "code",
        NO,
        'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n    f(timeout=3)\n'
        "TypeError: f() got an unexpected keyword argument 'timeout'",
    ),
    ("code", NO, "E       AssertionError: assert 'Connection refused' == 'Connection timed out'"),
    (
        "code",
        NO,
        "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n    retry = memory['limit']\n"
        "KeyError: 'limit'",
    ),
    ("code", NO, "Program received signal SIGSEGV: Segmentation fault - invalid memory reference."),
    ("code", NO, "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:"),
    ("code", NO, "src/main.rs:4:5\nerror[E0425]: cannot find value `timeout` in this scope"),
    (
        "code",
        NO,
        "main.c:(.text+0x15): undefined reference to `retry_connection'\ncollect2: error: ld returned 1 exit "
        "status",
    ),
    ("code", NO, "free(): invalid pointer\nAborted (core dumped)"),
    (
        "code",
        NO,
        "../aten/src/ATen/native/cuda/Loss.cu:250: nll_loss_forward: block: [0,0,0], thread: [3,0,0] Assertion `t "
        ">= 0 && t < n_classes` failed.\nRuntimeError: CUDA error: device-side assert triggered",
    ),
    ("code", NO, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (32x512 and 1024x10)"),
    ("code", NO, "Error in read_it(x) : object 'connection' not found\nExecution halted"),
    (
        "code",
        NO,
        "WARNING: retrying in 5 s: Connection refused\nWARNING: retrying in 10 s: Connection refused\nconnected\n"
        'Traceback (most recent call last):\n  File "a.py", line 9, in <module>\n    rows[0]\nIndexError: list index out of '
        "range",
    ),
    ("code", NO, 'ERROR: relation "timeouts" does not exist at character 15'),
    (
        "code",
        NO,
        "[rank1]: IndexError: tuple index out of range\n[rank0]:[E] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=9) ran for 600000 milliseconds before timing out.\nTerminating",
    ),
    # numerical
    ("numerical", NO, "     convergence NOT achieved after 100 iterations: stopping"),
    ("numerical", NO, "numpy.linalg.LinAlgError: Singular matrix"),
    ("numerical", NO, "FloatingPointError: Loss is nan, stopping training"),
    (
        "numerical",
        NO,
        "Program received signal SIGFPE: Floating-point exception - erroneous arithmetic operation.",
    ),
    ("numerical", NO, "Fatal error:\nStep 1200: The total potential energy is nan, which is not finite."),
    ("numerical", NO, "ERROR: Lost atoms: original 4000 current 3973 (src/thermo.cpp:488)"),
    # data
    ("data", NO, "gzip: reads_1.fq.gz: unexpected end of file"),
    ("data", NO, "zipfile.BadZipFile: File is not a zip file"),
    ("data", NO, "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    ("data", NO, "OSError: Unable to open file (file signature not found)"),
    (
        "data",
        NO,
        "pandas.errors.ParserError: Error tokenizing data. C error: Expected 5 fields in line 23, saw 7",
    ),
    (
        "data",
        NO,
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    ("data", NO, "OSError: Empty or corrupt FITS file"),
    ("data", NO, 'ERROR:  duplicate key value violates unique constraint "connection_pkey"'),
    (
        "data",
        NO,
        "[E::bgzf_read_block] Failed to read BGZF block data at offset 3841 expected 22811 bytes; hread returned "
        "8900\n[main_samview] truncated file.",
    ),
    ("data", YES, "tar: results/run.log: file changed as we read it"),
    # cancelled
    ("cancelled", NO, "slurmstepd: error: *** JOB 55 ON n3 CANCELLED AT 2024-05-01T10:00:00 ***"),
    (
        "cancelled",
        NO,
        '^CTraceback (most recent call last):\n  File "a.py", line 2, in <module>\n    sleep(9)\n'
        "KeyboardInterrupt",
    ),
    ("cancelled", NO, "##[error]The operation was canceled."),
    ("cancelled", NO, "TERM_OWNER: job killed by owner.\nExited with exit code 130."),
    # outputs
    ("output_invalid", YES, "Missing output file(s) `counts.tsv` expected by process `COUNT (s1)`"),
    (
        "file_system",
        YES,
        "MissingOutputException in rule a in file Snakefile, line 4:\nJob 1 completed successfully, but "
        "some output files are missing. Missing files after 5 seconds. This might be due to filesystem latency.",
    ),
    # nothing to go by
    ("unknown", NO, "step 1 done\nstep 2 done\n"),
    ("unknown", NO, ""),
]


@pytest.mark.parametrize(
    ("expected", "retry", "log"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_class_and_retry(expected: str, retry: bool, log: str) -> None:
    verdict = classify(log)
    assert (verdict.failure_class, verdict.retry) == (expected, retry), verdict
