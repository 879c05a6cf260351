"""Fault injection: a seeded catalogue of faults, campaigns that meet them, a judge who knows the truth."""
