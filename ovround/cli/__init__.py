"""The command line: each command parses, calls one function, prints. Results go to stdout, talk to stderr."""
