"""The network and what trains it: model, step, device, ranks, checkpoints."""
