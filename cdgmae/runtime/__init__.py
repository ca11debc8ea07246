"""How jobs run: seeds, devices, deadlines and signals, progress."""
