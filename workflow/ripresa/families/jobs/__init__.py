"""Long jobs of a cluster, in segments that continue from checkpoints. Room only, so far."""
