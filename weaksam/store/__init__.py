"""What a stage leaves on disk: sealed Parquet parts, manifests, atomic files, safe weights."""
