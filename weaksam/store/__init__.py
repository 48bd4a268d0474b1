"""Keep what a stage computes on disk: sealed Parquet parts, manifests, atomic files and safe weights."""
