"""What all runs share: session, placement, optimizer, checkpoint, rollout batches, planning."""
