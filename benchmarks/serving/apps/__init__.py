"""The programs that peers run: each is given the policy's graph (or model) and a port, and serves until it is ended."""
