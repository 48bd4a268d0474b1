"""Train Faster R-CNN or DINO on the finished pseudo ground truth: `retrain.py config.yaml [key=value ...]`."""

from weaksam.cli import run_tool

if __name__ == "__main__":
    run_tool(start="retrain", until="retrain")
