"""Child processes and forks, and decoding in them: a file that ends a process ends no other work."""
