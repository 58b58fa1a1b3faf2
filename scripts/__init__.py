"""Converters, samples and sweeps, run by path or as `python -m scripts.NAME`; the shell scripts call them."""
