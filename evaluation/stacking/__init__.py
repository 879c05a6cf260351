"""What the evaluations of stacking share: runs of ours and of Siril's, and a judge of stacked images."""
