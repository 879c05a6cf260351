"""Fault injection: a seeded catalogue of faults, real campaigns that meet them, and a judge who knows the truth."""
