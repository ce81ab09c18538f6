"""Benchmarks of the engine, the heads and their training, at the published shapes."""
