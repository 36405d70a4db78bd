"""Which of several data sets to train on for a given problem: coverage, gradients, and a measured race."""
