"""Coarse levels inside other people's training loops."""
