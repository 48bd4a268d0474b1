"""Turn pseudo boxes into masks and train Mask R-CNN on them: `wsis_extend.py config.yaml [key=value ...]`."""

from weaksam.cli import run_tool

if __name__ == "__main__":
    run_tool(start="wsis", until="wsis")
