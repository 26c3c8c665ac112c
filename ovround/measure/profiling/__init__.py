"""What one linear layer costs on a device: the table that `--target-latency` adds up, and how it is measured."""
