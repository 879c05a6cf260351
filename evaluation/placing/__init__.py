"""What the evaluation of the placement consists of: campaigns, a simulated clock, and policies."""
