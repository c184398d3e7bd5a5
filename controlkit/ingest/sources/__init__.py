"""Where a log comes from: files and folders of CSV, Parquet and Arrow, and databases."""
