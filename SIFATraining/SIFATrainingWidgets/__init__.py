"""What the window of SIFA Training is made of; nothing here computes."""
