"""What keeps a worker running: probes, leases, sweeping, taking in, reporting."""
