"""Find peak points and prompt the frozen segmenter with them: `generate_proposals.py config.yaml [key=value ...]`."""

from weaksam.cli import run_tool

if __name__ == "__main__":
    run_tool(until="proposals")
