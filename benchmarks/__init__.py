"""What `make bench` runs: our hot paths beside floors, on this machine, in the same minutes. Figures: README.md."""
