"""Speed and memory of pyd beside a real dockerd, measured in one run: `python -m benchmarks --help`."""
