"""What a forward takes and what it does inside: its arguments, its autocast regions, its precision, its running averages, its gradients."""
