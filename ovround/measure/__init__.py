"""What looks at a result: perplexity, divergence, speed, and other runtimes beside ours. Nothing else imports it."""
