"""Monitors: from what the model got wrong to signals, and the date of the change behind one."""
