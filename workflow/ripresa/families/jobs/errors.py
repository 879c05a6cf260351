"""What goes wrong with a job that a person has to put right."""


class JobError(Exception):
    """A job that cannot be meant so, or cannot go on; the message says what, where and what to do."""
