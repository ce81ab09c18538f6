"""What measures the engine, the heads and their training, at the published shapes."""
