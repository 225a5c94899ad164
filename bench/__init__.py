"""The benchmark suite: ``python -m bench`` measures, ``python -m bench.report`` makes tables and plots."""
