"""The shard format: records, manifest, index. FORMAT.md is the specification."""
