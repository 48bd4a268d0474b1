"""Train the weak detector on finished proposals, choose pseudo boxes: `train_wsod.py config.yaml [key=value ...]`."""

from weaksam.cli import run_tool

if __name__ == "__main__":
    run_tool(start="wsod", until="pseudo_gt")
