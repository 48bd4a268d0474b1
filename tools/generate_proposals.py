"""Prompt the frozen SAM with a grid, and peaks where tags are given: `generate_proposals.py CONFIG [key=value ...]`."""

from weaksam.cli import run_tool

if __name__ == "__main__":
    run_tool(until="proposals")
