"""The flists job: every chunk of a master namespace, first all, then as they come."""
