"""The inside of a forward: its arguments, its autocast regions, its precision, its running averages, its gradients."""
