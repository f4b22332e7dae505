"""Work for many machines, and for streams larger than the memory."""
