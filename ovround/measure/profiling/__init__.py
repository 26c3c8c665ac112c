"""What one linear layer costs on a device: the table that a budget in milliseconds adds up, and how it is measured."""
