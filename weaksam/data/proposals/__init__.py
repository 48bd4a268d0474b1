"""Proposals of any maker on disk: stores, COCO results, Parquet tables, other tools' pickles."""
