"""Look into packets: the frames each holds, their order, where decoding can begin."""
