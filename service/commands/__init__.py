"""The commands, one file a group. They parse, assemble and start; the work is done elsewhere."""
