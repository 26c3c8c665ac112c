"""What a model takes here at each width, before it is converted: file, memory, time of a token, loss, time to tune."""
