"""What goes to the edge: the bundle and the runtime that steps it; export lies on the training side."""
