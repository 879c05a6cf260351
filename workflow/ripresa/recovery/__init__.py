"""Recovery: what a failure was, what to do about it, and the guard around a unit's command that does it."""
