"""The copy loop: pages in, MGET from the master, verified SET to the slave, acks out."""
