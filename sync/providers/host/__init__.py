"""The mirror host: how it is reached, what is run on it, its directories and files."""
