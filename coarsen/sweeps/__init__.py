"""Sweeps: many coarsenings of one network, each judged and measured."""
