"""Read and write the proposals of any tool: stores, COCO results, Parquet tables and other tools' pickles."""
