"""Video files to frames by number: `read.read_frames`, and `reader.FrameReader` in a process that cannot hang the caller's."""
