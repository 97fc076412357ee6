"""Read shard sets: verify records, fill batches in the background, and copy them to the device."""
