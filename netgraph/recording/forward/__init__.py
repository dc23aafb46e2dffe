"""What a forward takes and what it does inside: its arguments, its autocast regions, its running averages, its gradients."""
