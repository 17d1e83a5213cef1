"""What the commands of ``imgcls`` say to people: each calls one job and tells its outcome."""
