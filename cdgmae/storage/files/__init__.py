"""Files that appear only when whole, locks, local copies."""
