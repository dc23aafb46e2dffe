"""From a trained network to a smaller one in use: a target, measured costs, and what each step takes and gives back."""
