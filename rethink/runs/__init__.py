"""What all runs share: session, loop, placement, optimizer, checkpoint, rollout batches, planning."""
