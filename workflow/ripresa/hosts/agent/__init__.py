"""The half that runs on a host: each call reads one request, acts on files of the host, and answers.

There is no daemon. What outlives a call is a supervisor for each unit that runs, and files:

    ROOT/bundles/<digest>/           this package, as it was shipped
    ROOT/runs/<run>/files/<sha256>   staged inputs, by content
    ROOT/runs/<run>/units/<key>/     a unit's attempt: request, log, result, outputs, work folder
    ROOT/runs/<run>/leases/          the kernel lock of each unit
    ROOT/runs/<run>/failed/          the newest failed attempts, kept to be looked at

Every module here must run on Python 3.9 with nothing but the standard library, and be quick to import.
"""
