"""Long jobs declared in config/jobs.yaml: any command, with checkpoints and in segments (docs/jobs.md)."""
