"""Records of the real docker plugin: see README.md."""
