"""The command ``fastretina shard``: a folder of photographs becomes verified shards."""
