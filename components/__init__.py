"""What the stack declares: typed settings in, Pulumi resources out. Nothing here opens a socket."""
