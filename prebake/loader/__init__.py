"""Reading shard sets: verified records, batches, transfer to the device."""
