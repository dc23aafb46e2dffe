"""HIERARCHY to PICTURES: pages and figures."""
