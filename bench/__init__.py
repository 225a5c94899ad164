"""Benchmarks; each is a program that prints what it measured and how."""
