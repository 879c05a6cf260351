"""The journal of a run: append-only records, leases, atomic publishing and the state derived from them.

Every module here is standard library only and quick to import, for the guard uses them once per unit.
"""
