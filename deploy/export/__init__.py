"""Export, on the training side: run folder -> gates -> bundle. `export_bundle` is in `deploy.export.exporter`."""
